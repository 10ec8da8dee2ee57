//! Bar charts as SVG, without a script; each bar has a text for screen readers.

use std::fmt::Write;

/// One bar.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// The label below it, if there is room.
    pub(super) label: String,
    /// Its height; negative values count as zero.
    pub(super) value: i64,
    /// The text shown when the pointer is over it.
    pub(super) tooltip: String,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
/// Space for a character of an axis label.
const CHARACTER: f64 = 7.5;
/// Space between an axis label and the bars.
const GAP: f64 = 8.0;
/// Space for half of the last label.
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;
/// The most labels below the bars.
const LABELS: usize = 8;

/// Draws a chart. `scale` formats a value of the axis; `title` and `summary` are for screen readers.
#[allow(clippy::cast_precision_loss)] // The numbers are small.
pub(super) fn bars(title: &str, summary: &str, bars: &[Bar], scale: fn(&i64) -> String) -> String {
    let most = bars.iter().map(|bar| bar.value).max().unwrap_or(0);
    let top = round_up(most.max(1));
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"chart-title chart-summary\">\
         <title id=\"chart-title\">{}</title><desc id=\"chart-summary\">{}</desc>",
        escaped(title),
        escaped(summary)
    );
    let height = HEIGHT - TOP - BOTTOM;
    let labels = [0, 2, 4].map(|quarter| (quarter, scale(&(top / 4 * quarter + top % 4 * quarter / 4))));
    let longest = labels.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
    let left = longest as f64 * CHARACTER + GAP;
    for (quarter, label) in labels {
        let y = TOP + height - height * quarter as f64 / 4.0;
        let class = if quarter == 0 { "base" } else { "axis" };
        // Writing to a String does not fail.
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            left - GAP,
            y + 4.0,
            escaped(&label)
        );
    }
    draw(&mut svg, bars, top, left, height);
    svg + "</svg>"
}

#[allow(clippy::cast_precision_loss)] // A bar is some hundred pixels high.
fn draw(svg: &mut String, bars: &[Bar], top: i64, left: f64, height: f64) {
    let step = (WIDTH - left - RIGHT) / bars.len().max(1) as f64;
    let every = bars.len().div_ceil(LABELS).max(1);
    for (at, bar) in bars.iter().enumerate() {
        let tall = (bar.value.max(0) as f64 / top as f64 * height).max(if bar.value > 0 { 1.5 } else { 0.0 });
        let (x, gap) = (left + step * at as f64, (step * 0.2).min(6.0));
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" rx=\"2\"><title>{}</title></rect>",
            x + gap / 2.0,
            TOP + height - tall,
            (step - gap).clamp(0.5, 56.0),
            escaped(&bar.tooltip)
        );
        if at % every == 0 {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x + (step / 2.0).min(28.0 + gap / 2.0),
                HEIGHT - 6.0,
                escaped(&bar.label)
            );
        }
    }
}

/// The smallest of 1, 2, 4, 10, 20, 40, … that is at least `value`. All but 1 can be halved.
fn round_up(value: i64) -> i64 {
    let mut power: i64 = 1;
    loop {
        for factor in [1, 2, 4] {
            let candidate = power.saturating_mul(factor);
            if candidate >= value {
                return candidate;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[i64]) -> String {
        let of = |value: &i64| Bar { label: "d".into(), value: *value, tooltip: format!("<{value}>") };
        bars("A & B", "two", &values.iter().map(of).collect::<Vec<_>>(), i64::to_string)
    }

    #[test]
    fn bars_are_in_proportion_and_never_out_of_the_picture() {
        let svg = chart(&[0, 5, 10]);
        let heights: Vec<f64> = svg
            .split("<rect")
            .skip(1)
            .map(|bar| bar.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights, [0.0, 93.0, 186.0]);
        assert!(chart(&[1, 1_000_000]).contains("height=\"1.5\""), "what there is, is seen");
    }

    #[test]
    fn tooltips_are_text_and_nothing_needs_a_style() {
        let svg = chart(&[3]);
        assert!(svg.contains("<title>&lt;3&gt;</title>") && svg.contains("A &amp; B") && !svg.contains("style"));
    }

    #[test]
    fn it_draws_what_is_empty_and_what_is_huge() {
        assert!(chart(&[]).ends_with("</svg>"));
        assert!(chart(&[i64::MAX, -1]).contains("<rect"));
        assert_eq!([round_up(1), round_up(3), round_up(11), round_up(400)], [1, 4, 20, 400]);
    }

    #[test]
    fn a_long_time_has_room_for_its_labels() {
        assert!(chart(&[1; 366]).matches("text-anchor=\"middle\"").count() <= LABELS);
    }
}

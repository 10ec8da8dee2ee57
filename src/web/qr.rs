//! QR codes, drawn as SVG.

use qrcodegen::{QrCode, QrCodeEcc};

/// Modules of the light border that readers need.
const BORDER: i32 = 4;

/// The code of a text, as an element that can stand in a page; `None` if the text is too long. It is dark on light in
/// both colour schemes, as some readers know nothing else.
pub(super) fn svg(text: &str, label: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let size = code.size() + 2 * BORDER;
    let mut dark = String::new();
    for y in 0..code.size() {
        let mut x = 0;
        while x < code.size() {
            let from = x;
            while x < code.size() && code.get_module(x, y) {
                x += 1;
            }
            if x > from {
                dark += &format!("M{} {}h{}v1h-{}z", from + BORDER, y + BORDER, x - from, x - from);
            }
            x += 1;
        }
    }
    Some(format!(
        r##"<svg class="qr" role="img" aria-label="{label}" viewBox="0 0 {size} {size}" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path fill="#000" d="{dark}"/></svg>"##
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dark_module_is_drawn_once() {
        let text = "otpauth://totp/textgen:ann%40example%2Ecom?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=textgen";
        let code = QrCode::encode_text(text, QrCodeEcc::Medium).unwrap();
        let dark = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
        let dark = dark.filter(|(x, y)| code.get_module(*x, *y)).count();
        let drawn = svg(text, "label").unwrap();
        let path = drawn.split(r##"fill="#000" d=""##).nth(1).unwrap().split('"').next().unwrap();
        let widths = path.split('M').skip(1).map(|run| run.split(['h', 'v']).nth(1).unwrap().parse::<usize>().unwrap());
        assert_eq!(widths.sum::<usize>(), dark);
        assert!(!drawn.contains("style"), "the page's policy forbids it");
        assert!(svg(&"x".repeat(5000), "label").is_none());
    }
}

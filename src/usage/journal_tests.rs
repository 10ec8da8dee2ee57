//! What a journal withstands.

use super::super::recovery::{self, Orphan};
use super::*;
use crate::usage::record::tests::{event, record};

const PREFIX: &str = "p-";

/// A folder of this test's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        Folder(std::env::temp_dir().join(format!("textgen-journal-{}", crate::usage::new_id())))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.0).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The ids that recovery finds, and how many bytes are damaged.
    fn recover(&self) -> (Vec<String>, usize) {
        let (mut ids, mut damaged) = (Vec::new(), 0);
        for path in recovery::journals(&self.0, PREFIX).unwrap() {
            let Ok(Some(mut orphan)) = Orphan::adopt(path, &origin()) else { continue };
            loop {
                let events = orphan.read(3).unwrap();
                if events.is_empty() {
                    break;
                }
                ids.extend(events.into_iter().map(|event| event.id));
            }
            damaged += orphan.damaged();
            orphan.finish().unwrap();
        }
        (ids, damaged)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn origin() -> Origin {
    Origin::of(b"key")
}

fn events(names: &[&str]) -> Vec<Event> {
    names.iter().map(|name| event(name)).collect()
}

fn journal(folder: &Folder, most_bytes: u64) -> Journal {
    let journal = Journal::new(folder.0.clone(), most_bytes);
    journal.prepare(PREFIX, &origin()).unwrap();
    journal
}

#[test]
fn gives_back_what_it_took_and_is_empty_then() {
    let folder = Folder::new();
    let journal = journal(&folder, STEP);
    assert!(journal.has_room() && journal.portion().unwrap().is_none());
    assert_eq!(journal.oldest(), None);
    let first = events(&["a", "b"]);
    let made = |event: &Event| from_micros(micros(event.created));
    journal.append(first.iter()).unwrap();
    assert_eq!(journal.oldest(), made(&first[0]));
    let portion = journal.portion().unwrap().unwrap();
    let later = events(&["c"]);
    journal.append(later.iter()).unwrap();
    assert_eq!(journal.oldest(), made(&first[0]));
    assert_eq!(portion.events.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    journal.done(&portion).unwrap();
    drop(portion);
    assert_eq!(journal.size().1, 1);
    let portion = journal.portion().unwrap().unwrap();
    assert_eq!((&*portion.events[0].id, journal.oldest()), ("c", made(&later[0])));
    journal.done(&portion).unwrap();
    assert_eq!((journal.size(), journal.portion().unwrap().is_none()), ((0, 0), true));
    assert_eq!(journal.oldest(), None);
    journal.append(events(&["d"]).iter()).unwrap();
    drop((portion, journal));
    assert_eq!(folder.recover(), (vec!["d".to_owned()], 0), "nothing of what was forgotten");
    assert!(folder.files().is_empty());
}

#[test]
fn a_living_process_keeps_its_file() {
    let folder = Folder::new();
    let journal = journal(&folder, STEP);
    journal.append(events(&["a"]).iter()).unwrap();
    assert_eq!(folder.recover(), (vec![], 0));
    drop(journal);
    assert_eq!(folder.recover(), (vec!["a".to_owned()], 0));
    assert_eq!(recovery::count_foreign(&folder.0, "q-").unwrap(), 0);
}

#[test]
fn an_end_that_is_empty_leaves_no_file() {
    let folder = Folder::new();
    let first = journal(&folder, STEP);
    let second = journal(&folder, STEP);
    second.append(events(&["a"]).iter()).unwrap();
    assert_eq!(folder.files().len(), 2);
    first.close();
    second.close();
    assert_eq!(folder.files().len(), 1);
}

#[test]
fn is_full_before_it_is() {
    let folder = Folder::new();
    let journal = journal(&folder, 3 * STEP / 2);
    let mut count = 0;
    while journal.has_room() {
        journal.append(events(&["a"; 50]).iter()).unwrap();
        count += 50;
    }
    // What was let in before finds room.
    for _ in 0..10 {
        journal.append(events(&["a"; 50]).iter()).unwrap();
        count += 50;
    }
    while journal.append(events(&["a"; 50]).iter()).is_ok() {
        count += 50;
    }
    assert!(fs::metadata(&folder.files()[0]).unwrap().len() <= 3 * STEP / 2);
    assert_eq!(journal.size().1, count, "all or none");
    let mut seen = 0;
    while let Some(portion) = journal.portion().unwrap() {
        seen += portion.events.len() as u64;
        journal.done(&portion).unwrap();
    }
    assert_eq!((seen, journal.has_room()), (count, true));
    assert_eq!(fs::metadata(&folder.files()[0]).unwrap().len(), STEP);
}

#[test]
fn a_torn_end_loses_only_what_nobody_was_told_of() {
    let folder = Folder::new();
    journal(&folder, STEP).append(events(&["a", "b", "c"]).iter()).unwrap();
    let path = folder.files()[0].clone();
    let whole = fs::read(&path).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let length = record(&whole[MAGIC.len()..], &origin()).unwrap().1;
    for cut in (end - length..end).step_by(11) {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(folder.recover(), (vec!["a".to_owned(), "b".to_owned()], 0), "{cut}");
        let mut zeroed = whole.clone();
        zeroed[cut..].fill(0);
        fs::write(&path, &zeroed).unwrap();
        assert_eq!(folder.recover(), (vec!["a".to_owned(), "b".to_owned()], 0), "{cut}");
    }
    for cut in 0..=MAGIC.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        if cut == 0 || cut == MAGIC.len() {
            assert_eq!(folder.recover(), (vec![], 0));
        }
    }
}

#[test]
fn damage_in_the_middle_loses_only_that_record() {
    let folder = Folder::new();
    journal(&folder, STEP).append(events(&["a", "b", "c", "d"]).iter()).unwrap();
    let path = folder.files()[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    let length = record(&bytes[MAGIC.len()..], &origin()).unwrap().1;
    bytes[MAGIC.len() + length + 40] ^= 0x20;
    fs::write(&path, &bytes).unwrap();
    let (ids, damaged) = folder.recover();
    assert_eq!(ids, ["a", "c", "d"]);
    assert!(damaged > 0);
    assert!(folder.files()[0].to_string_lossy().ends_with(".damaged"), "what was damaged is kept");
}

#[test]
fn another_format_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    fs::write(folder.0.join("p-x.journal"), b"textgen charges3 and more").unwrap();
    fs::write(folder.0.join("q-x.journal"), b"").unwrap();
    assert_eq!(folder.recover(), (vec![], 0));
    assert_eq!((folder.files().len(), recovery::count_foreign(&folder.0, PREFIX).unwrap()), (2, 1));
}

#[test]
fn what_is_no_file_of_ours_is_named_and_left_alone() {
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    fs::create_dir(folder.0.join("p-a.journal")).unwrap();
    std::os::unix::fs::symlink("p-z.journal", folder.0.join("p-b.journal")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.0.join("p-c.journal"), rustix::fs::Mode::RWXU).unwrap();
    let paths = recovery::journals(&folder.0, PREFIX).unwrap();
    assert_eq!(paths.len(), 3);
    for path in paths {
        assert!(Orphan::adopt(path, &origin()).is_err());
    }
}

#[test]
fn records_with_another_key_are_not_read_and_the_file_is_kept() {
    let folder = Folder::new();
    let journal = Journal::new(folder.0.clone(), STEP);
    journal.prepare(PREFIX, &Origin::of(b"another")).unwrap();
    journal.append(events(&["a", "b"]).iter()).unwrap();
    drop(journal);
    assert_eq!(folder.recover(), (vec![], 0));
    assert!(folder.files()[0].to_string_lossy().ends_with(".damaged"));
    assert_eq!(recovery::count_aside(&folder.0, PREFIX).unwrap(), 1);
}

#[test]
fn only_this_user_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    journal(&folder, STEP).append(events(&["a"]).iter()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder.0), mode(&folder.files()[0])), (0o700, 0o600));
}

//! Names of conflicted copies.

/// The longest name that file systems hold, in bytes.
pub const NAME_MAX: usize = 255;

/// What a mark begins with, before it says who made the copy.
const MARK: &[u8] = b" (conflicted copy, ";

/// The longest part of a label that a name shows, in bytes.
const LABEL_MAX: usize = 80;

/// The `number`th name for a conflicted copy of `name`: `report (conflicted copy, laptop, 2026-11-23).odt`. It is no longer
/// than a name may be; what must go of it goes from before the mark. A copy of a copy is marked once.
pub fn conflicted(name: &[u8], is_directory: bool, label: &str, number: u32) -> Vec<u8> {
    let (stem, extension) = unmarked(name, is_directory);
    let label: String = label.chars().filter(|c| !c.is_control() && *c != '/').collect();
    let label = String::from_utf8_lossy(cut(label.as_bytes(), LABEL_MAX)).into_owned();
    let again = if number > 1 { format!(" {number}") } else { String::new() };
    let mark = [MARK, label.as_bytes(), b")", again.as_bytes()].concat();
    let room = NAME_MAX.saturating_sub(mark.len() + extension.len());
    [cut(stem, room), &mark, extension].concat()
}

/// Whether `copy` is the name of a conflicted copy of `name`, whoever made it.
pub fn is_copy_of(copy: &[u8], name: &[u8], is_directory: bool) -> bool {
    copy != name && is_marked(copy) && unmarked(copy, is_directory) == unmarked(name, is_directory)
}

/// What all copies of a name begin with.
pub fn stem_of(name: &[u8], is_directory: bool) -> &[u8] {
    unmarked(name, is_directory).0
}

/// Whether a name is that of a conflicted copy.
pub fn is_marked(name: &[u8]) -> bool {
    name.windows(MARK.len()).any(|window| window == MARK)
}

/// A name before its extension, and the extension with its dot, without the mark of a copy.
fn unmarked(name: &[u8], is_directory: bool) -> (&[u8], &[u8]) {
    let (stem, extension) = if is_directory { (name, &b""[..]) } else { split(name) };
    let mark = stem.windows(MARK.len()).position(|window| window == MARK);
    (mark.map_or(stem, |at| &stem[..at]), extension)
}

/// A name before its extension, and the extension with its dot. A dot that begins or ends the name makes none.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    match dot {
        Some(at) if at > 0 && at + 1 < name.len() && name.len() - at <= 16 => name.split_at(at),
        Some(_) | None => (name, b""),
    }
}

/// The first `max` bytes, less if they would cut a character of UTF-8.
fn cut(text: &[u8], max: usize) -> &[u8] {
    let mut end = text.len().min(max);
    if end < text.len() {
        while end > 0 && text[end] & 0xc0 == 0x80 {
            end -= 1;
        }
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, number: u32) -> String {
        String::from_utf8(conflicted(name.as_bytes(), false, "laptop, 2026-11-23", number)).expect("UTF-8")
    }

    #[test]
    fn the_mark_comes_before_the_extension_and_the_name_fits() {
        assert_eq!(of("a.odt", 1), "a (conflicted copy, laptop, 2026-11-23).odt");
        assert_eq!(of("a.odt", 3), "a (conflicted copy, laptop, 2026-11-23) 3.odt");
        assert_eq!(of(".profile", 1), ".profile (conflicted copy, laptop, 2026-11-23)");
        assert_eq!(of("end.", 1), "end. (conflicted copy, laptop, 2026-11-23)");
        assert_eq!(
            conflicted(b"a.d", true, "L", 1),
            b"a.d (conflicted copy, L)",
            "directories have no extension"
        );
        for name in ["ü".repeat(127) + "x", "a".repeat(251) + ".txt", "漢".repeat(85)] {
            let long = of(&name, 1);
            assert!(long.len() <= NAME_MAX && long.contains("conflicted copy"), "{long}");
        }
    }

    #[test]
    fn a_label_is_no_way_out_of_a_directory_and_no_name_by_itself() {
        let bent = conflicted(b"a", false, "x/../\0\ny", 1);
        assert_eq!(bent, b"a (conflicted copy, x..y)");
        assert!(conflicted(b"a.txt", false, &"ü".repeat(300), 1).len() <= NAME_MAX);
    }

    #[test]
    fn a_copy_of_a_copy_is_marked_once() {
        let other = of("a (conflicted copy, phone, 2026-01-01).odt", 1);
        assert_eq!(other, "a (conflicted copy, laptop, 2026-11-23).odt");
        assert!(is_copy_of(other.as_bytes(), b"a.odt", false));
        assert!(!is_copy_of(b"a.odt", b"a.odt", false));
        assert!(!is_copy_of(other.as_bytes(), b"b.odt", false));
    }
}

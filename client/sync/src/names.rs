//! Names of conflicted copies.

/// The longest name that file systems hold, in bytes.
pub const NAME_MAX: usize = 255;

/// The `number`th name for a conflicted copy of `name`: `report (conflicted copy, laptop, 2026-11-23).odt`. It is no longer
/// than a name may be; what must go of it goes from before the mark.
pub fn conflicted(name: &[u8], label: &str, number: u32) -> Vec<u8> {
    let (stem, extension) = split(name);
    let again = if number > 1 { format!(" {number}") } else { String::new() };
    let mark = format!(" (conflicted copy, {label}){again}");
    let room = NAME_MAX.saturating_sub(mark.len() + extension.len());
    [cut(stem, room), mark.as_bytes(), extension].concat()
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
        String::from_utf8(conflicted(name.as_bytes(), "laptop, 2026-11-23", number)).expect("UTF-8")
    }

    #[test]
    fn the_mark_comes_before_the_extension_and_the_name_fits() {
        assert_eq!(of("a.odt", 1), "a (conflicted copy, laptop, 2026-11-23).odt");
        assert_eq!(of("a.odt", 3), "a (conflicted copy, laptop, 2026-11-23) 3.odt");
        assert_eq!(of(".profile", 1), ".profile (conflicted copy, laptop, 2026-11-23)");
        assert_eq!(of("end.", 1), "end. (conflicted copy, laptop, 2026-11-23)");
        for name in ["ü".repeat(127) + "x", "a".repeat(251) + ".txt", "漢".repeat(85)] {
            let long = of(&name, 1);
            assert!(long.len() <= NAME_MAX && long.contains("conflicted copy"), "{long}");
        }
    }
}

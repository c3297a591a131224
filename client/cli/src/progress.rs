//! How far long work is, for whoever looks: nothing is drawn where standard error is no terminal.

use crate::daemon::Shown;
use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many bytes.
pub fn bytes(all: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(all).with_message(what.to_owned());
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

/// A line that says what directories wait for.
pub fn waiting() -> ProgressBar {
    ProgressBar::new_spinner()
}

/// What is still to be done, in a line.
pub fn line(roots: &[Shown]) -> String {
    let open = roots.iter().filter(|root| root.state != "synced");
    let said = open.map(|root| {
        let reason = root.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} is {}{reason}", root.directory, root.state)
    });
    let said = said.collect::<Vec<_>>().join(", ");
    let (sent, received) = roots.first().map_or((0, 0), |root| (root.sent, root.received));
    let size = |bytes| ByteSize(bytes).display().si();
    format!("{said}; {} sent, {} received", size(sent), size(received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said() {
        let root = |directory: &str, state: &str| Shown {
            directory: directory.to_owned(),
            state: state.to_owned(),
            sent: 1_500_000,
            ..Shown::default()
        };
        let line = line(&[root("/a", "synced"), root("/b", "syncing")]);
        assert_eq!(line, "/b is syncing; 1.5 MB sent, 0 B received");
    }
}

//! What a process does when a disk has lied to it.

/// Ends the process at once, with the reason on standard error.
///
/// After a failed fsync the kernel may have dropped the very pages that were to be saved, and a second fsync would
/// succeed without them. Nothing in memory can be trusted to be on the disk: only a restart, which reads the disk again,
/// can know.
pub fn fail_stop(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(what, %error, "stopping: the disk failed, and what is on it must be read again");
    eprintln!(
        "holdfast stops: {what}: {error}. Check the disk, then start again: nothing that was acknowledged is lost."
    );
    std::process::abort()
}

//! The command line.

use crate::limits::Rate;
use clap::{Parser, Subcommand, ValueEnum};
use holdfast_client_engine::Keep;
use std::path::PathBuf;

/// Keeps files in Holdfast: synced with directories, or by themselves.
#[derive(Debug, Parser)]
#[command(name = "hf", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes this device one of yours
    Login {
        /// Where the server syncs, as HOST:PORT
        server: String,
        #[arg(long)]
        user: String,
        /// Reads the password from standard input
        #[arg(long)]
        password_stdin: bool,
        /// Reads a pairing code from standard input, which another device or an operator gives
        #[arg(long, conflicts_with = "password_stdin")]
        code_stdin: bool,
        /// What the device is called: conflicted copies have it in their names
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
        /// The server's fingerprint, as it printed it; otherwise whoever answers is believed this once, and shown
        #[arg(long)]
        fingerprint: Option<String>,
    },
    /// Lists your spaces, or makes one
    Spaces {
        #[command(subcommand)]
        command: Option<SpacesCommand>,
    },
    /// Directories that are synced
    #[command(subcommand)]
    Sync(SyncCommand),
    /// Syncs, in the foreground, until it is stopped
    Daemon,
    /// Lists what is in a space
    Ls {
        /// SPACE or SPACE/PATH
        place: String,
    },
    /// Writes a file to standard output
    Cat {
        /// SPACE/PATH
        place: String,
    },
    /// Copies a file from here to a space, as SPACE:PATH, or from there to here
    Cp { from: String, to: String },
    /// Gives a file or directory another place in its space
    Mv {
        /// SPACE/PATH
        from: String,
        /// SPACE/PATH
        to: String,
    },
    /// Deletes a file, or a directory that is empty
    Rm {
        /// SPACE/PATH
        place: String,
    },
    /// Lists the versions of a file, or names one, so that it is kept
    Versions {
        /// SPACE/PATH
        place: String,
        /// The version that is to have the name
        #[arg(long, requires = "name")]
        version: Option<u64>,
        /// A name, or nothing, for one that is to be as the others
        #[arg(long, requires = "version")]
        name: Option<String>,
    },
    /// Brings back a version of a file, or one that was deleted; with --at, all of a directory or space as it was
    Restore {
        /// SPACE/PATH, or with --at SPACE alone
        place: String,
        /// A moment, as 2026-11-23T10:00:00Z, or how long ago that was, as 90m or 2d
        #[arg(long, conflicts_with = "version")]
        at: Option<String>,
        /// As "hf versions" numbers them; the newest there was, where it is not given
        #[arg(long)]
        version: Option<u64>,
    },
    /// Lists what was deleted from a space, and can be restored
    Trash { space: String },
    /// Lets another user see a space or a directory of it, and perhaps change what is in it
    Share {
        /// SPACE or SPACE/DIRECTORY
        place: String,
        user: String,
        /// Whether it may change what is there, or only see it
        #[arg(long, value_parser = ["viewer", "editor"])]
        role: String,
    },
    /// Shares a space or a directory of it with another user no longer
    Unshare {
        /// SPACE or SPACE/DIRECTORY
        place: String,
        user: String,
    },
    /// Lists with whom a space is shared
    Shares { space: String },
    /// Links by which those who are no users read a file or a directory, in a browser
    #[command(subcommand)]
    Link(LinkCommand),
    /// Lists files that two devices changed at once, or decides about one
    Conflicts {
        #[command(subcommand)]
        command: Option<ConflictsCommand>,
    },
    /// Lists your devices
    Devices {
        #[command(subcommand)]
        command: Option<DevicesCommand>,
    },
}

#[derive(Debug, Subcommand)]
pub enum SpacesCommand {
    /// Makes a space
    Create {
        name: String,
        /// How many versions of each file are kept
        #[arg(long, default_value_t = 30)]
        versions: u32,
        /// Days after which what is not the newest version goes, whatever their number
        #[arg(long)]
        days: Option<u32>,
        /// Seconds that versions are apart that are kept for more than a day
        #[arg(long, default_value_t = 60)]
        spacing: u32,
    },
}

#[derive(Debug, Subcommand)]
pub enum SyncCommand {
    /// Syncs a directory with a space; what is in both is joined
    Add {
        space: String,
        directory: PathBuf,
        /// What becomes of a file that both sides changed: a conflicted copy of it, the last writer's, or nothing until
        /// "hf conflicts resolve"
        #[arg(long, default_value = "copy", value_parser = ["copy", "last-writer", "manual"])]
        conflicts: String,
        /// A directory of the space that is not kept here, as a path in it; may be given again
        #[arg(long, value_name = "FOLDER")]
        without: Vec<String>,
    },
    /// Stops syncing a directory; its files stay
    Remove {
        directory: PathBuf,
    },
    /// Shows what is synced, and what is not and why
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Waits until all that is on the disk now, and on the server, is the same
    Wait {
        /// Seconds to wait at most
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
    },
    /// Has a directory that is synced not be kept here any more; it stays in the space
    Unselect {
        folder: PathBuf,
    },
    /// Has a directory of the space be kept here again
    Select {
        folder: PathBuf,
    },
    /// Bounds what is sent and received in a second, in bytes (500K, 2M), or no longer (none); shows it, where neither is given
    Limit {
        #[arg(long)]
        up: Option<Rate>,
        #[arg(long)]
        down: Option<Rate>,
    },
    Pause,
    Resume,
    /// Says that it is meant that so many files are deleted
    Confirm,
}

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Makes a link, whose address is shown once
    Create {
        /// SPACE/PATH, or SPACE alone
        place: String,
        /// Asks for a password, which is read from standard input
        #[arg(long)]
        password: bool,
        /// How long it is good: 30m, 12h, 7d, ...
        #[arg(long, value_name = "TIME")]
        expires: Option<humantime::Duration>,
        /// How many files may be downloaded by it
        #[arg(long, value_name = "NUMBER")]
        max_downloads: Option<u64>,
    },
    /// Lists the links to what is in a space
    List { space: String },
    /// Ends a link
    Remove {
        space: String,
        /// As "hf link list" names it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConflictsCommand {
    /// Decides about a file that is kept apart (directories that are synced with --conflicts manual)
    Resolve {
        /// Where it is in the synced directory
        file: PathBuf,
        /// Whose bytes it is to have
        #[arg(long, value_enum)]
        keep: Kept,
    },
}

/// Whose bytes a file is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kept {
    /// This device's; the server's become an older version
    Mine,
    /// The server's; this device's go to the trash in .holdfast
    Theirs,
    /// The server's, and beside it this device's as a conflicted copy
    Both,
}

impl From<Kept> for Keep {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Mine => Self::Mine,
            Kept::Theirs => Self::Theirs,
            Kept::Both => Self::Both,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum DevicesCommand {
    /// Makes a code by which another device can be paired, once and soon: hf login ADDR --user U --code-stdin
    Code,
    /// Lets a device sync nothing any more
    Revoke { id: String },
}

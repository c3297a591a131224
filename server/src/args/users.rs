//! Arguments about users, their keys, policies and encryption keys.

use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// Which system is meant; without any of these, the cluster of the operator's identity.
#[derive(Debug, Clone, ClapArgs)]
pub struct Way {
    /// The data directory of a running system on this host
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "admin")]
    pub data: Option<PathBuf>,
    /// The admin API of a cluster, as https://HOST:PORT
    #[arg(long, value_name = "URL", global = true)]
    pub admin: Option<String>,
    /// A token for it, which "holdfast admin create" made
    #[arg(long, value_name = "T", global = true, env = "HOLDFAST_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The cluster's authority, as PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
}

/// A command, and the system that it is for.
#[derive(Debug, ClapArgs)]
pub struct At<C: Subcommand> {
    #[command(flatten)]
    pub way: Way,
    #[command(subcommand)]
    pub command: C,
}

/// What is about users, their keys, and what they are told.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Makes, lists and removes the users of S3
    User(At<UserCommand>),
    /// Makes, lists and removes their access keys
    Key(At<KeyCommand>),
    /// Keeps policies, and attaches them to users
    Policy(At<PolicyCommand>),
    /// Makes, rotates and disables the keys that objects are encrypted with
    Kms(At<KmsCommand>),
    /// Makes webhooks that buckets send events to, and shows a bucket's changes
    Webhook(At<WebhookCommand>),
    /// Makes other clusters known, to which buckets may be copied
    Remote(At<RemoteCommand>),
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Makes a user, which owns what it creates
    Create {
        name: String,
        /// What people see; the name, where it is not given
        #[arg(long)]
        display_name: Option<String>,
        /// Under which grants may name it
        #[arg(long)]
        email: Option<String>,
        /// Reads a password from standard input, with which the user's devices are paired
        #[arg(long)]
        password_stdin: bool,
    },
    /// Gives a user another password; its devices stay paired
    Password {
        name: String,
        /// Reads it from standard input
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Limits what a user may store, in all that it owns: refused is what goes beyond
    Quota {
        name: String,
        /// A number of bytes, or none
        #[arg(value_parser = quota)]
        bytes: Quota,
    },
    /// Makes a code by which one device of a user's can be paired, once and within a quarter of an hour
    Code { name: String },
    /// Lists users
    List,
    /// Lets none of a user's keys open anything
    Disable { name: String },
    /// Lets a user's keys open what they opened before
    Enable { name: String },
    /// Removes a user with its keys; its buckets stay
    Delete { name: String },
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes an access key: a random one, whose secret is shown once, or the one that is given
    Create {
        #[arg(long)]
        user: String,
        #[arg(long, value_name = "A", requires = "secret_key")]
        access_key: Option<String>,
        #[arg(
            long,
            value_name = "S",
            requires = "access_key",
            env = "HOLDFAST_KEY_SECRET",
            hide_env_values = true
        )]
        secret_key: Option<String>,
    },
    /// Lists access keys
    List {
        #[arg(long)]
        user: Option<String>,
    },
    /// Removes an access key
    Delete { access_key: String },
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Keeps a policy that users can share, or a user's own
    Put {
        name: String,
        /// A policy in AWS's language
        file: PathBuf,
        /// Whose own it is
        #[arg(long)]
        user: Option<String>,
    },
    /// Lists policies that users can share
    List,
    /// Removes a policy
    Delete {
        name: String,
        /// Whose own it is
        #[arg(long)]
        user: Option<String>,
    },
    /// Attaches a policy to a user
    Attach {
        name: String,
        #[arg(long)]
        user: String,
    },
    /// Detaches a policy from a user
    Detach {
        name: String,
        #[arg(long)]
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum KmsCommand {
    /// Encryption keys, under which SSE-KMS and bucket encryption write objects
    #[command(subcommand)]
    Key(KmsKeyCommand),
}

#[derive(Debug, Subcommand)]
pub enum KmsKeyCommand {
    /// Makes an encryption key
    Create {
        id: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Lists encryption keys; "holdfast/s3" is that of SSE-S3
    List,
    /// Gives a key a new version: what is written from then on takes it, what was written stays readable
    Rotate { id: String },
    /// Lets nothing be written or read with a key
    Disable { id: String },
    /// Lets a key be used again
    Enable { id: String },
}

#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// Makes another cluster known, or changes how it is reached
    Create {
        name: String,
        /// Where its S3 is: http:// or https:// and a host
        #[arg(long)]
        url: String,
        #[arg(long, value_name = "A")]
        access_key: String,
        #[arg(long, value_name = "S", env = "HOLDFAST_REMOTE_SECRET_KEY", hide_env_values = true)]
        secret_key: String,
        #[arg(long, default_value = "us-east-1")]
        region: String,
        /// A user whose buckets may be copied there; may be repeated
        #[arg(long = "user", value_name = "NAME")]
        users: Vec<String>,
    },
    /// Lists other clusters
    List,
    /// Forgets another cluster
    Delete { name: String },
}

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Makes a webhook, to which buckets may send their events, or gives one another address
    Create {
        name: String,
        url: String,
        /// Sent with each event, as a bearer's
        #[arg(long, value_name = "T", env = "HOLDFAST_WEBHOOK_TOKEN", hide_env_values = true)]
        secret: Option<String>,
    },
    /// Lists webhooks
    List,
    /// Removes a webhook
    Delete { name: String },
    /// Shows the changes of a bucket from a number on
    Changes {
        bucket: String,
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many seconds to wait where there are none
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
}

/// How much a user may store: so many bytes, or as many as there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota(pub Option<u64>);

fn quota(text: &str) -> Result<Quota, String> {
    if text == "none" {
        return Ok(Quota(None));
    }
    text.parse().map(|bytes| Quota(Some(bytes))).map_err(|_| "write a number of bytes, or none".to_owned())
}

//! Directories that users share with each other.

use super::{Answer, At, Refused, Session, refuse, say};
use holdfast_client_link::Stream;
use holdfast_core::{
    ids::{BucketId, NodeId},
    limits::KEY_BYTES_MAX,
};
use holdfast_meta_raft_machine::{
    ask::{NamesAfter, SharesOf},
    command::{Command, Rejection},
    records::{Share as Kept, Shares as AllKept},
};
use holdfast_proto::sync::{
    Done, ListShares, Share, ShareFolder, Shares, Space, failure::Code, reply::Reply,
};

/// Bytes of a user's name.
const NAME_MAX: usize = 64;

/// What is shared with one user that a list shows: it is one frame.
const SHOWN_MAX: usize = 1000;

/// What a share is called that lets its user change what is in it, or only see it.
pub(super) fn role(writes: bool) -> &'static str {
    if writes { "editor" } else { "viewer" }
}

/// Tells what a space is that clients know: a bucket, or a directory of one. Nodes are of no two buckets.
pub(super) fn space_id(at: &At, directory: Option<NodeId>) -> u64 {
    match (at.base.is_empty(), directory) {
        (true, _) => at.bucket.bucket.id.0,
        (false, directory) => directory.map_or(0, |node| node.0) | 1 << 63,
    }
}

impl Session {
    /// The caller at a space whose owner it is, which alone may share it.
    pub(super) async fn at_own(&self, space: &str) -> Result<At, Refused> {
        let at = self.at(space).await?;
        if !at.scene.may_sync("s3:PutBucketPolicy", None, None, false) {
            refuse(Code::Denied, "a space is shared by whoever owns it")?;
        }
        Ok(at)
    }

    pub(super) async fn share_folder(&self, stream: &mut Stream, asked: ShareFolder) -> Answer {
        let at = self.at_own(&asked.space).await?;
        let writes = match asked.role.as_str() {
            "viewer" => Some(false),
            "editor" => Some(true),
            "" => None,
            _ => refuse(Code::Invalid, "a role is viewer or editor")?,
        };
        if writes.is_some() && !self.door.s3.directory.now().users.contains_key(&asked.user) {
            refuse(Code::NotFound, format!("there is no user {}", asked.user))?;
        }
        if writes.is_some() && !at.scene.owner_has_all() {
            // What guests write would be theirs for ever, and not the owner's to read.
            let text = "what is written to this bucket belongs to whoever writes it: set its object ownership to \
                BucketOwnerEnforced, by S3, to share it";
            refuse(Code::Invalid, text)?;
        }
        if asked.user.len() > NAME_MAX || asked.path.len() > KEY_BYTES_MAX {
            refuse(Code::Malformed, "a name that is too long")?;
        }
        let mut path = at.full(&asked.path);
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let bucket = at.bucket.bucket.id;
        let command = Command::Share { bucket, path, user: asked.user, writes };
        match self.door.s3.engine.run(command).await {
            Ok(_) => say(stream, Reply::Done(Done {})).await,
            Err(crate::engine::EngineError::Rejected(Rejection::NoSuchKey)) => {
                Ok(refuse(Code::NotFound, "there is no such directory, or it is not shared with that user")?)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn list_shares(&self, stream: &mut Stream, asked: ListShares) -> Answer {
        let at = self.at_own(&asked.space).await?;
        let question = SharesOf { bucket: Some(at.bucket.bucket.id), user: None };
        let found = self.door.meta().ask(question).await?;
        let mut shares = Vec::new();
        for (_, user, AllKept(kept)) in found {
            let shown = |share: Kept| Share {
                path: share.path,
                user: user.clone(),
                role: role(share.writes).to_owned(),
            };
            shares.extend(kept.into_iter().map(shown));
            shares.truncate(2 * SHOWN_MAX);
        }
        say(stream, Reply::Shares(Shares { shares })).await
    }

    /// The directory that `name@NODE` names, wherever its owner has it by now, if it is shared.
    pub(super) async fn shared_directory(
        &self,
        bucket: BucketId,
        name: &str,
        shares: &[Kept],
    ) -> Result<Option<Vec<u8>>, Refused> {
        let Some(node) = name.rsplit_once('@').and_then(|(_, node)| node.parse().ok()) else {
            return Ok(None);
        };
        for share in shares {
            if self.directory(bucket, &share.path).await? == Some(NodeId(node)) {
                return Ok(Some(share.path.clone()));
            }
        }
        Ok(None)
    }

    async fn directory(&self, bucket: BucketId, path: &[u8]) -> Result<Option<NodeId>, Refused> {
        let question = NamesAfter { bucket, base: path.to_vec(), after: Vec::new(), limit: 1 };
        Ok(self.door.meta().ask(question).await?.base)
    }

    /// What others share with a user, as spaces of its own; of each bucket the name is asked for.
    pub(super) async fn shared_with(
        &self,
        user: &str,
        name_of: impl Fn(BucketId) -> Option<String>,
    ) -> Result<Vec<Space>, Refused> {
        let question = SharesOf { bucket: None, user: Some(user.to_owned()) };
        let mut spaces = Vec::new();
        for (bucket, _, AllKept(shares)) in self.door.meta().ask(question).await? {
            let Some(name) = name_of(bucket) else { continue };
            for share in shares {
                let path = String::from_utf8_lossy(&share.path).into_owned();
                let name = format!("{name}/{path}");
                let name = name.trim_end_matches('/').to_owned();
                let id = match share.path.is_empty() {
                    true => Some(bucket.0),
                    false => self.directory(bucket, &share.path).await?.map(|node| node.0),
                };
                let Some(id) = id else { continue };
                if spaces.len() == SHOWN_MAX {
                    return Ok(spaces);
                }
                spaces.push(Space { name, id, role: role(share.writes).to_owned(), bytes: 0, files: 0 });
            }
        }
        Ok(spaces)
    }
}

//! Links for those who are no users.

use super::{Answer, At, Refused, Session, refuse, say};
use crate::{clock::unix_ms, engine::EngineError, http::LINKS, identity::devices};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use holdfast_client_link::Stream;
use holdfast_core::limits::KEY_BYTES_MAX;
use holdfast_meta_raft_machine::{
    ask::LinksOf,
    command::{Command, Rejection},
    records::Link as Kept,
};
use holdfast_proto::sync::{
    Done, Link, Links, ListLinks, MadeLink, MakeLink, RemoveLink, failure::Code, reply::Reply,
};

/// How much of a link's hash names it for whoever made it, in hexadecimal digits.
const NAME: usize = 12;

fn name_of(id: &[u8; 32]) -> String {
    hex::encode(id)[..NAME].to_owned()
}

impl Session {
    pub(super) async fn make_link(&self, stream: &mut Stream, asked: MakeLink) -> Answer {
        let at = self.at_own(&asked.space).await?;
        let path = at.full(&asked.path);
        at.demand("s3:GetObject", Some(&path))?;
        if path.len() > KEY_BYTES_MAX || asked.downloads == Some(0) {
            refuse(Code::Malformed, "a path that is too long, or a link that leads nowhere")?;
        }
        if asked.until_ms.is_some_and(|until| until <= unix_ms()) {
            refuse(Code::Invalid, "the link would have ended already")?;
        }
        let password = match asked.password {
            None => None,
            Some(password) => {
                // It takes as much as checking one does.
                let turn = self.door.passwords.clone().acquire_owned().await;
                let hash = move || {
                    let _while_it_lasts = turn;
                    devices::hash(&password)
                };
                let hashed = tokio::task::spawn_blocking(hash).await;
                Some(hashed.map_err(|_| EngineError::ShuttingDown)??)
            }
        };
        let secret: [u8; 16] = rand::random();
        let (id, creator) = (*blake3::hash(&secret).as_bytes(), at.who.user.clone());
        let (until_ms, downloads) = (asked.until_ms, asked.downloads);
        let kept = Kept { path, creator, created_ms: unix_ms(), password, until_ms, downloads };
        let mut made = Err(Refused::from(Rejection::NoSuchKey));
        // A file, or else a directory.
        for slash in ["", "/"] {
            let path = [kept.path.as_slice(), slash.as_bytes()].concat();
            let link = Box::new(Kept { path, ..kept.clone() });
            made = self.order(&at, |bucket| Command::MakeLink { bucket, id, link }).await;
            let whole = kept.path.is_empty() || kept.path.ends_with(b"/");
            if whole || !made.as_ref().is_err_and(|refused| refused.0.code() == Code::NotFound) {
                break;
            }
        }
        made?;
        let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
        let url = format!("{}{LINKS}{}/{secret}", self.door.url, at.bucket.bucket.name);
        say(stream, Reply::MadeLink(MadeLink { url, name: name_of(&id) })).await
    }

    async fn order(
        &self,
        at: &At,
        command: impl FnOnce(holdfast_core::ids::BucketId) -> Command,
    ) -> Result<(), Refused> {
        match self.door.s3.engine.run(command(at.bucket.bucket.id)).await {
            Ok(_) => Ok(()),
            Err(EngineError::Rejected(Rejection::NoSuchKey)) => {
                refuse(Code::NotFound, "there is nothing of that name")
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn list_links(&self, stream: &mut Stream, asked: ListLinks) -> Answer {
        let at = self.at_own(&asked.space).await?;
        let kept = self.door.meta().ask(LinksOf { bucket: at.bucket.bucket.id }).await?;
        let good = kept.into_iter().filter(|(_, link)| link.until_ms.is_none_or(|until| unix_ms() < until));
        let shown = |(id, link): ([u8; 32], Kept)| Link {
            name: name_of(&id),
            path: link.path,
            until_ms: link.until_ms,
            downloads: link.downloads,
            password: link.password.is_some(),
        };
        say(stream, Reply::Links(Links { links: good.map(shown).collect() })).await
    }

    pub(super) async fn remove_link(&self, stream: &mut Stream, asked: RemoveLink) -> Answer {
        let at = self.at_own(&asked.space).await?;
        let kept = self.door.meta().ask(LinksOf { bucket: at.bucket.bucket.id }).await?;
        let found = kept.into_iter().find(|(id, _)| name_of(id) == asked.name);
        let Some((id, _)) = found else {
            return Ok(refuse(Code::NotFound, "there is no link of that name")?);
        };
        self.order(&at, |bucket| Command::RemoveLink { bucket, id }).await?;
        say(stream, Reply::Done(Done {})).await
    }
}

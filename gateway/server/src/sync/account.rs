//! Devices and spaces of a user.

use super::{Answer, Refused, Session, Signed, refuse, say, share::role};
use crate::{
    clock::unix_ms,
    identity::{IdentityError, change::change, devices},
    lifecycle::SPACING,
    s3::{BucketNames, BucketView, Scene},
    seats::address_of,
};
use holdfast_client_link::{Identity, Stream};
use holdfast_core::{chunker::ChunkerProfile, ids::PoolId};
use holdfast_meta_raft_machine::{
    ask::{AccountOf, ConfiguredBuckets, UsageOf},
    command::{Command, Rejection},
    records::{BucketConfig, Versioning},
};
use holdfast_meta_raft_server::Meta;
use holdfast_proto::sync::{
    Device, Devices, Done, MakeSpace, Pair, Paired, PairingCode, RevokeDevice, SignIn, SignedIn, Space,
    Spaces, failure::Code, reply::Reply,
};
use s3s::validation::NameValidation;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Versions that a space keeps of each file, at most.
const VERSIONS_MAX: u32 = 10_000;

/// Seconds that versions may be apart, at most.
const SPACING_MAX: u32 = 3600;

/// A space's ownership controls, as S3 writes them.
const OWNERSHIP: &str = "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule>\
    </OwnershipControls>";

/// Starts of doors that are remembered.
const LIVES: usize = 200;

/// What the sync doors of all gateways of a cluster share.
pub struct Known {
    pub epoch: String,
    /// Each start of a door has a name, of which the latest are known: a device that heard of one that is not among them has
    /// seen what this cluster has forgotten. The last one is this door's.
    pub lives: Vec<String>,
    pub identity: Identity,
}

/// The same as the metadata keeps it.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    epoch: String,
    certificate: String,
    key: String,
    #[serde(default)]
    lives: Vec<String>,
}

/// Reads what all sync doors share, or makes it.
///
/// # Errors
/// Where the metadata does not answer.
pub async fn found(meta: &Meta) -> Result<Known, IdentityError> {
    let fresh = Identity::make().map_err(|error| IdentityError::Invalid(error.to_string()))?;
    let fresh = Kept {
        epoch: hex::encode(rand::random::<[u8; 16]>()),
        certificate: hex::encode(&fresh.certificate),
        key: hex::encode(&fresh.key),
        lives: Vec::new(),
    };
    let life = hex::encode(rand::random::<[u8; 8]>());
    let damaged = |_| IdentityError::Invalid("the sync door's certificate is damaged".to_owned());
    let kept = change(meta, |records| {
        let invalid = |error: serde_json::Error| IdentityError::Invalid(error.to_string());
        let mut kept = match records.get("sync/door") {
            Some(text) => serde_json::from_str::<Kept>(text).map_err(invalid)?,
            None => fresh.clone(),
        };
        kept.lives.push(life.clone());
        let forgotten = kept.lives.len().saturating_sub(LIVES);
        kept.lives.drain(..forgotten);
        records.insert("sync/door".to_owned(), serde_json::to_string(&kept).map_err(invalid)?);
        Ok::<_, IdentityError>(kept)
    })
    .await?;
    let certificate = hex::decode(kept.certificate).map_err(damaged)?;
    let key = hex::decode(kept.key).map_err(damaged)?;
    Ok(Known { epoch: kept.epoch, lives: kept.lives, identity: Identity { certificate, key } })
}

/// Has devices know this life of the cluster from the one before: it was brought back from an earlier day.
///
/// # Errors
/// Where the metadata does not answer.
pub async fn renew_epoch(meta: &Meta) -> Result<(), IdentityError> {
    let fresh = hex::encode(rand::random::<[u8; 16]>());
    change(meta, |records| {
        let Some(text) = records.get_mut("sync/door") else { return Ok(()) };
        let damaged = |error: serde_json::Error| IdentityError::Invalid(error.to_string());
        let kept = Kept { epoch: fresh.clone(), ..serde_json::from_str(text).map_err(damaged)? };
        *text = serde_json::to_string(&kept).map_err(damaged)?;
        Ok(())
    })
    .await
}

impl Session {
    pub(super) async fn pair(&self, stream: &mut Stream, asked: Pair) -> Answer {
        let door = &self.door;
        let seat = door.pairing.take(address_of(self.address));
        let (Ok(waiting), Some(seat)) = (door.waiting.clone().try_acquire_owned(), seat) else {
            return Ok(refuse(Code::Busy, "many devices are being paired: try again in a moment")?);
        };
        let turn = door.passwords.clone().acquire_owned().await;
        door.s3.look("", None).await.map_err(Refused::from)?;
        let identities = door.s3.directory.now();
        let user = identities.users.get(&asked.user).map(|known| known.user.clone());
        let (name, Pair { password, code: given, .. }) = (asked.user.clone(), asked.clone());
        let code = identities.codes.get(&name).filter(|_| !given.is_empty()).cloned();
        let by = code.clone();
        // It goes on where whoever asks is gone: so does what it takes.
        let checked = tokio::task::spawn_blocking(move || {
            let _while_it_lasts = (waiting, seat, turn);
            match given.is_empty() {
                true => devices::verify(user.as_ref(), &password),
                false => devices::verify_code(user.as_ref(), code.as_ref(), &given, unix_ms()),
            }
        });
        if !checked.await.unwrap_or(false) {
            tracing::warn!(user = name, address = %self.address, "a device was not paired");
            refuse(Code::NotSignedIn, "the user's name is wrong, or the password or code")?;
        }
        let paired = devices::pair(door.meta(), &name, &asked.device, by.as_ref(), unix_ms());
        let (device, secret) = paired.await?;
        tracing::info!(user = name, device = device.name, "a device was paired");
        say(stream, Reply::Paired(Paired { device: device.id, secret: secret.to_vec() })).await
    }

    pub(super) async fn make_code(&self, stream: &mut Stream) -> Answer {
        let (signed, _) = self.caller().await?;
        let _turn = self.door.passwords.acquire().await;
        let code = devices::make_code(self.door.meta(), &signed.user, unix_ms()).await?;
        let seconds = devices::CODE_SECONDS;
        say(stream, Reply::Code(PairingCode { code, seconds })).await
    }

    pub(super) async fn sign_in(&self, stream: &mut Stream, asked: SignIn) -> Answer {
        self.door.s3.look("", None).await.map_err(Refused::from)?;
        let identities = self.door.s3.directory.now();
        let known = identities.devices.get(&asked.device);
        let good = known.is_some_and(|(user, device)| *user == asked.user && device.has(&asked.secret));
        if !good || identities.principal(&asked.user).is_none() {
            refuse(Code::NotSignedIn, "this device is not known, or no longer: \"hf login\" again")?;
        }
        self.signed.store(Some(Arc::new(Signed { user: asked.user, device: asked.device })));
        let (epoch, lives) = (self.door.epoch.clone(), self.door.lives.to_vec());
        say(stream, Reply::SignedIn(SignedIn { epoch, lives })).await
    }

    pub(super) async fn list_spaces(&self, stream: &mut Stream) -> Answer {
        let (signed, who) = self.caller().await?;
        let (mut spaces, mut used) = (Vec::new(), 0);
        let buckets = self.door.meta().ask(ConfiguredBuckets {}).await?;
        let names: BTreeMap<_, _> =
            buckets.iter().map(|(bucket, _)| (bucket.id, bucket.name.clone())).collect();
        for (bucket, config) in buckets {
            let own = who.canonical() == Some(&config.owner);
            let view = Arc::new(BucketView::new(bucket, config));
            let scene = Scene::of_device(who.clone(), view.clone(), self.address);
            if view.bucket.name.starts_with('.') || !scene.may_sync("s3:ListBucket", None, None, false) {
                continue;
            }
            let usage = self.door.meta().ask(UsageOf { bucket: view.bucket.id }).await?.unwrap_or_default();
            if own {
                used += usage.bytes;
            }
            let role = match (own, scene.may_sync("s3:PutObject", Some("*"), None, false)) {
                (true, _) => "owner",
                (false, writes) => role(writes),
            };
            spaces.push(Space {
                name: view.bucket.name.clone(),
                id: view.bucket.id.0,
                role: role.to_owned(),
                bytes: usage.bytes,
                files: usage.objects,
            });
        }
        spaces.extend(self.shared_with(&signed.user, |bucket| names.get(&bucket).cloned()).await?);
        let owner = who.canonical().unwrap_or_default().to_owned();
        let quota = self.door.meta().ask(AccountOf { owner }).await?.map(|account| account.quota);
        say(stream, Reply::Spaces(Spaces { spaces, used, quota })).await
    }

    pub(super) async fn make_space(&self, stream: &mut Stream, asked: MakeSpace) -> Answer {
        let (_, who) = self.caller().await?;
        if !BucketNames.validate_bucket_name(&asked.name) {
            let text = "a space's name has 3 to 63 lower-case letters, digits, hyphens and dots";
            refuse(Code::Invalid, text)?;
        }
        if asked.days == Some(0) || asked.spacing > SPACING_MAX {
            refuse(Code::Invalid, "versions are kept for a day at least, and are an hour apart at most")?;
        }
        if !(1..=VERSIONS_MAX).contains(&asked.versions) {
            refuse(Code::Invalid, format!("a file has 1 to {VERSIONS_MAX} versions"))?;
        }
        if !Scene::of_nothing(who.clone(), self.address).may_make(&asked.name, &["s3:CreateBucket"]) {
            refuse(Code::Denied, "you may not make spaces")?;
        }
        let spacing = (asked.spacing > 0).then(|| (SPACING.to_owned(), asked.spacing.to_string()));
        let config = BucketConfig {
            owner: who.canonical().unwrap_or_default().to_owned(),
            versioning: Versioning::Enabled,
            documents: BTreeMap::from([
                ("lifecycle".to_owned(), keeps(asked.versions, asked.days)),
                // What somebody writes to a space is the space's.
                ("ownership".to_owned(), OWNERSHIP.to_owned()),
            ])
            .into_iter()
            .chain(spacing)
            .collect(),
            ..BucketConfig::default()
        };
        let (domain, chunker) = (PoolId::FIRST.domain(), ChunkerProfile::V1);
        let make = Command::MakeBucket { name: asked.name.clone(), domain, chunker, config };
        match self.door.s3.engine.run(make).await {
            Ok(_) => say(stream, Reply::Done(Done {})).await,
            Err(crate::engine::EngineError::Rejected(Rejection::BucketExists)) => Ok(refuse(
                Code::Exists,
                format!("there is a space {} already: take another name", asked.name),
            )?),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn list_devices(&self, stream: &mut Stream) -> Answer {
        let (signed, _) = self.caller().await?;
        let identities = self.door.s3.directory.now();
        let mine = identities.devices.values().filter(|(user, _)| *user == signed.user);
        let mut devices: Vec<Device> = mine
            .map(|(_, device)| Device {
                id: device.id.clone(),
                name: device.name.clone(),
                paired_ms: device.paired_ms,
                this: device.id == signed.device,
            })
            .collect();
        devices.sort_by_key(|device| device.paired_ms);
        say(stream, Reply::Devices(Devices { devices })).await
    }

    pub(super) async fn revoke_device(&self, stream: &mut Stream, asked: RevokeDevice) -> Answer {
        let (signed, _) = self.caller().await?;
        devices::revoke(self.door.meta(), &signed.user, &asked.id).await?;
        say(stream, Reply::Done(Done {})).await
    }
}

/// The lifecycle rules of a space that keeps so many versions of each file, and perhaps for so many days, as S3 writes them.
fn keeps(versions: u32, days: Option<u32>) -> String {
    let older = versions - 1;
    let newer = match older {
        0 => String::new(),
        some => format!("<NewerNoncurrentVersions>{some}</NewerNoncurrentVersions>"),
    };
    let aged = days.map(|days| {
        format!(
            "<Rule><ID>age</ID><Status>Enabled</Status><Filter></Filter><NoncurrentVersionExpiration>\
             <NoncurrentDays>{days}</NoncurrentDays></NoncurrentVersionExpiration></Rule>"
        )
    });
    let aged = aged.unwrap_or_default();
    format!(
        "<LifecycleConfiguration><Rule><ID>versions</ID><Status>Enabled</Status><Filter></Filter>\
         <NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>{newer}</NoncurrentVersionExpiration>\
         </Rule>{aged}</LifecycleConfiguration>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spaces_rule_is_one_that_lifecycle_reads() {
        for (versions, days, rules) in [(1, None, 1), (30, None, 1), (30, Some(90), 2)] {
            let documents = BTreeMap::from([("lifecycle".to_owned(), keeps(versions, days))]);
            let config = BucketConfig { documents, ..BucketConfig::default() };
            assert_eq!(crate::s3::lifecycle_of(&config).len(), rules, "{versions}");
        }
    }
}

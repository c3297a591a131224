//! Who may do what. A request is looked at once: who sends it, what it is about, and what is there. Judging it and carrying
//! it out read that one [`Scene`].

mod actions;
mod facts;
mod signature;

pub use actions::Target;
pub use facts::Query;

use super::{
    S3Door,
    acl::{Acl, Permission},
    error,
    forms::FormFields,
    logging::{Note, Noted},
    settings::{BucketView, Ownership},
};
use crate::{
    clock::unix_ms,
    engine::EngineError,
    http::Peer,
    iam::session,
    identity::{OWNER_ACCOUNT, Who},
};
use actions::{Grant, Rule, rule_of};
use facts::{Asked, Facts};
use holdfast_gateway_policy::{Caller, Effect};
use holdfast_meta_raft_machine::{
    ask::{BucketNamed, CurrentVersion, Look, LookAt, LookedUp, Object},
    command::{Command, Rejection, VersionChange},
    records::{BucketConfig, Extra, VersionName},
};
use holdfast_meta_raft_server::MetaError;
use hyper::HeaderMap;
use s3s::{
    S3Error, S3Request, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    path::S3Path,
    s3_error,
};
use std::{net::SocketAddr, sync::Arc};

/// A request, and all that it is judged by.
pub struct Scene {
    pub who: Who,
    /// Not of requests that are about no bucket.
    bucket: Option<Arc<BucketView>>,
    pub object: LookedUp,
    /// It is an upload by a form, which is judged when the form was read.
    pub form: bool,
    facts: Facts,
}

/// The scene of a request that was let in.
///
/// # Errors
/// Where none was made, which cannot be.
pub fn scene<T>(request: &S3Request<T>) -> S3Result<Arc<Scene>> {
    let scene = request.extensions.get::<Arc<Scene>>().cloned();
    scene.ok_or_else(|| s3_error!(InternalError, "We encountered an internal error. Please try again."))
}

fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

pub fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

impl Scene {
    /// The bucket.
    ///
    /// # Errors
    /// Where the request is about none, which is not one that asks.
    pub fn bucket(&self) -> S3Result<&Arc<BucketView>> {
        self.bucket.as_ref().ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }

    /// The canonical id of whoever writes; nobody's writes are the bucket owner's.
    pub fn writer(&self) -> String {
        let bucket = self.bucket.as_ref();
        let bucket_owner = || bucket.map(|bucket| bucket.config.owner.clone()).unwrap_or_default();
        match bucket.map(|bucket| bucket.ownership) {
            Some(Ownership::BucketOwnerEnforced) => bucket_owner(),
            _ => self.who.canonical().map_or_else(bucket_owner, str::to_owned),
        }
    }

    /// Whether somebody may do something to what the request is about, or to `key` in its bucket.
    pub fn may(&self, action: &str, grant: Grant, key: Option<&str>, object: Option<&Extra>) -> bool {
        self.may_given(action, grant, key, object, false)
    }

    /// The same of what is shared with the caller, perhaps: that lets it do so as a policy of the bucket would.
    fn may_given(
        &self,
        action: &str,
        grant: Grant,
        key: Option<&str>,
        object: Option<&Extra>,
        shared: bool,
    ) -> bool {
        let Some(bucket) = &self.bucket else { return false };
        let resource = bucket.resource(key);
        let asked = Asked::new(self, action, &resource, object);
        allowed(&asked, bucket, grant, object, shared)
    }

    /// What a device asks of a bucket by the sync door, which knows no headers.
    pub fn of_device(who: Who, bucket: Arc<BucketView>, address: SocketAddr) -> Self {
        Self::of_peer(who, bucket, Peer { address, secure: true })
    }

    /// What is asked of a bucket without headers that count.
    pub fn of_peer(who: Who, bucket: Arc<BucketView>, peer: Peer) -> Self {
        let facts = Facts::of_peer(peer);
        Self { who, bucket: Some(bucket), object: LookedUp::NotAsked, form: false, facts }
    }

    /// The same of no bucket.
    pub fn of_nothing(who: Who, address: SocketAddr) -> Self {
        let facts = Facts::of_peer(Peer { address, secure: true });
        Self { who, bucket: None, object: LookedUp::NotAsked, form: false, facts }
    }

    /// Whether a device may do something, by policies and by grants on the bucket, and by what is shared with its user.
    pub fn may_sync(&self, action: &str, key: Option<&str>, object: Option<&Extra>, shared: bool) -> bool {
        let grant = match action {
            "s3:ListBucket" | "s3:GetObject" | "s3:GetObjectVersion" => Grant::Read,
            "s3:PutObject" | "s3:DeleteObject" => Grant::Write,
            _ => Grant::None,
        };
        self.may_given(action, grant, key, object, shared)
    }

    /// Whether whatever is written to the bucket is its owner's.
    pub fn owner_has_all(&self) -> bool {
        self.bucket.as_ref().is_some_and(|bucket| bucket.ownership == Ownership::BucketOwnerEnforced)
    }

    /// Whether policies may say something else of one key than of another that begins with the same prefix.
    pub fn tells_apart(&self, actions: &[&str], prefix: &str) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        let resource = bucket.resource(Some(prefix));
        let asked = Asked::new(self, actions.first().copied().unwrap_or_default(), &resource, None);
        let by_bucket = match &bucket.policy {
            Some(Ok(policy)) => policy.tells_apart(&asked, actions, &resource),
            Some(Err(())) => true,
            None => false,
        };
        let by_owner = bucket.ownership != Ownership::BucketOwnerEnforced
            && self.who.canonical() != Some(&bucket.config.owner);
        let own = match &self.who {
            Who::User(principal) => principal.tells_apart(&asked, actions, &resource),
            Who::Owner | Who::Anonymous => false,
        };
        by_bucket || by_owner || own
    }

    /// Whether somebody may do something to a version that it writes itself.
    pub fn may_own(&self, action: &str, key: &str, extra: &Extra) -> bool {
        // Of what exists, policies ask the tags: what is being written does not exist yet.
        let new = Extra { tags: Vec::new(), ..extra.clone() };
        self.may(action, Grant::None, Some(key), Some(&new))
    }

    /// Whether the bucket's policy denies something, whoever allows it.
    pub fn is_denied(&self, action: &str, key: &str) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        let resource = bucket.resource(Some(key));
        let asked = Asked::new(self, action, &resource, None);
        says(&asked, bucket) == Some(Effect::Deny)
    }

    /// Whether governance may be gone around, as the request asks for.
    pub fn bypasses(&self, wanted: bool, key: &str) -> bool {
        wanted && self.may("s3:BypassGovernanceRetention", Grant::None, Some(key), None)
    }

    /// Whether it may write copies of another cluster's objects.
    pub fn may_replicate(&self, key: &str) -> bool {
        self.may("s3:ReplicateObject", Grant::None, Some(key), None)
    }

    /// Whether it may write a key of its bucket.
    pub fn may_write(&self, key: &str) -> bool {
        self.may("s3:PutObject", Grant::Write, Some(key), None)
    }

    /// Whether it may delete a key of its bucket, or one of its versions.
    pub fn may_delete(&self, key: &str, names_version: bool) -> bool {
        let action = if names_version { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
        let grant = if names_version { Grant::None } else { Grant::Write };
        self.may(action, grant, Some(key), None)
    }

    /// The same caller at the same bucket, of whom other facts are judged.
    fn with(&self, facts: Facts) -> Self {
        let (who, bucket) = (self.who.clone(), self.bucket.clone());
        Self { who, bucket, object: LookedUp::NotAsked, form: false, facts }
    }

    /// The same caller's view of another object.
    pub fn about(&self, bucket: Arc<BucketView>, object: LookedUp) -> Self {
        Self { bucket: Some(bucket), object, ..self.with(self.facts.clone()) }
    }

    /// # Errors
    /// Where the caller may not read the object, or may not know that it is not there.
    pub fn may_read(&self, key: &str, names_version: bool) -> S3Result<()> {
        let rule = rule_of("GetObject").ok_or_else(denied)?;
        self.check(rule, Some(key), names_version)
    }

    /// The object that was looked up and may be read.
    ///
    /// # Errors
    /// 404, or 405 for a delete marker.
    pub fn found(&self, names_version: bool) -> S3Result<&Object> {
        found(&self.object, names_version)
    }

    /// Whether the caller has policies of its own: then it may do only what they allow.
    fn is_restricted(&self) -> bool {
        matches!(&self.who, Who::User(principal) if principal.is_restricted())
    }

    /// What the request is judged by.
    pub fn headers(&self) -> &HeaderMap {
        &self.facts.headers
    }

    /// The same request with other headers: a form says in its fields what others say there.
    pub fn with_headers(&self, headers: HeaderMap) -> Self {
        let (object, form) = (self.object.clone(), self.form);
        Self { object, form, ..self.with(Facts { headers, ..self.facts.clone() }) }
    }

    /// The same request, as if it listed what begins with `prefix`.
    fn as_listing(&self, prefix: &str) -> Self {
        self.with(Facts { query: Query::of_prefix(prefix), ..self.facts.clone() })
    }

    /// Whether it may give an object these tags.
    pub fn may_tag(
        &self,
        action: &str,
        key: &str,
        object: Option<&Extra>,
        tags: &[(String, String)],
    ) -> bool {
        let tagging = self.with(Facts { new_tags: Some(tags.to_vec()), ..self.facts.clone() });
        tagging.may(action, Grant::None, Some(key), object)
    }

    /// Whether the caller may do something that is about no bucket that exists.
    pub fn may_outside(&self, action: &str, resource: &str) -> bool {
        let asked = Asked::new(self, action, resource, None);
        match own_policies(&asked) {
            Some(Effect::Deny) => false,
            Some(Effect::Allow) => true,
            None => !self.is_restricted(),
        }
    }

    /// Whether the caller may make a bucket with what it is set to.
    pub fn may_make(&self, bucket: &str, actions: &[&str]) -> bool {
        let resource = format!("arn:aws:s3:::{bucket}");
        actions.iter().all(|action| self.may_outside(action, &resource))
    }
}

/// What was looked up, as an object.
///
/// # Errors
/// 404, or 405 for a delete marker.
pub fn found(object: &LookedUp, names_version: bool) -> S3Result<&Object> {
    match object {
        LookedUp::Found(found) if found.extra.marker => {
            Err(super::versions::marker_error(found, names_version))
        }
        LookedUp::Found(found) => Ok(found),
        LookedUp::NoVersion => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
        LookedUp::NoKey | LookedUp::NotAsked if names_version => {
            Err(s3_error!(NoSuchVersion, "The specified version does not exist."))
        }
        LookedUp::NoKey | LookedUp::NotAsked => Err(no_such_key()),
    }
}

/// What a bucket's policy says of a request.
fn says(asked: &Asked<'_>, bucket: &BucketView) -> Option<Effect> {
    match &bucket.policy {
        Some(Ok(policy)) => policy.effect(asked),
        // What cannot be read may have meant to deny.
        Some(Err(())) => Some(Effect::Deny),
        None => None,
    }
}

/// The whole decision: a denial anywhere is final; within an account its owner may do everything; across accounts the
/// resource's side must allow it, and the caller's own policies too where there are any.
fn allowed(
    asked: &Asked<'_>,
    bucket: &BucketView,
    grant: Grant,
    object: Option<&Extra>,
    shared: bool,
) -> bool {
    let own = own_policies(asked);
    let restricted = asked.scene.is_restricted();
    let public = bucket.block.restrict_public_buckets && bucket.policy_is_public();
    let stranger = asked.scene.who.canonical() != Some(&bucket.config.owner);
    let policy = says(asked, bucket).filter(|effect| *effect == Effect::Deny || !(public && stranger));
    if own == Some(Effect::Deny) || policy == Some(Effect::Deny) {
        // The owner of a bucket can always mend its policy.
        let mends = ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"];
        let mender = match &asked.scene.who {
            Who::Owner => true,
            Who::User(principal) => !stranger && principal.is_whole_account(),
            Who::Anonymous => false,
        };
        let free = !restricted || own == Some(Effect::Allow);
        return own != Some(Effect::Deny) && mender && free && mends.contains(&asked.action);
    }
    if matches!(asked.scene.who, Who::Owner) {
        return true;
    }
    // Objects belong to whoever wrote them, where the bucket does not say otherwise: reading and granting is theirs. Tags and
    // locks are the bucket's.
    let owners =
        ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"];
    let theirs = owners.contains(&asked.action) || asked.action.ends_with("Acl");
    let owner = match object {
        Some(extra) if theirs && bucket.ownership != Ownership::BucketOwnerEnforced => &extra.owner,
        _ => &bucket.config.owner,
    };
    if asked.scene.who.canonical() == Some(owner) {
        // What the policy allows the account, the account passes on by policies of its users and roles.
        let by_name = || !stranger && says(&asked.by_name(), bucket) == Some(Effect::Allow);
        return !restricted || own == Some(Effect::Allow) || by_name();
    }
    let by_resource = shared || policy == Some(Effect::Allow) || granted(asked, bucket, grant, object);
    by_resource && (!restricted || own == Some(Effect::Allow))
}

fn own_policies(asked: &Asked<'_>) -> Option<Effect> {
    let Who::User(principal) = &asked.scene.who else { return None };
    principal.effect(asked)
}

fn granted(asked: &Asked<'_>, bucket: &BucketView, grant: Grant, object: Option<&Extra>) -> bool {
    if bucket.ownership == Ownership::BucketOwnerEnforced {
        return false;
    }
    let permission = match grant {
        Grant::None => return false,
        Grant::Read => Permission::Read,
        Grant::Write => Permission::Write,
        Grant::ReadAcp => Permission::ReadAcp,
        Grant::WriteAcp => Permission::WriteAcp,
    };
    let ignore = bucket.block.ignore_public_acls;
    match object {
        Some(extra) => {
            Acl::kept(extra.documents.get("acl"), &extra.owner).allows(&asked.scene.who, permission, ignore)
        }
        None => bucket.acl.allows(&asked.scene.who, permission, ignore),
    }
}

impl S3Door {
    /// Looks at a bucket and perhaps at an object, and at whether identities changed.
    pub async fn look(
        &self,
        bucket: &str,
        key: Option<(Vec<u8>, Option<VersionName>)>,
    ) -> S3Result<(Option<Arc<BucketView>>, LookedUp)> {
        // What the system keeps for itself has names that no bucket can have.
        if super::is_hidden(bucket) {
            return Ok((None, LookedUp::NotAsked));
        }
        let cached = self.buckets.get(bucket);
        let seen = cached.as_ref().map(|view| (view.bucket.id, view.config.number));
        let question = LookAt { bucket: bucket.to_owned(), seen, key: key.clone() };
        let plain =
            cached.as_ref().is_none_or(|view| view.config.number == 0) && self.directory.now().number == 0;
        let look = match self.engine.meta().ask(question).await {
            // Only where nothing that members of the version before do not know was ever seen.
            Err(MetaError::Refused(_)) if plain => self.look_before_4(bucket, key).await?,
            other => other.map_err(|failed| error::engine(failed.into()))?,
        };
        self.directory.refresh(look.identities).await.map_err(|failed| error::engine(failed.into()))?;
        let Some(found) = look.bucket else {
            self.buckets.forget(bucket);
            return Ok((None, look.object));
        };
        let view = match (look.config, cached) {
            (None, Some(view)) => view,
            (config, _) => self.buckets.keep(BucketView::new(found, config.unwrap_or_default())),
        };
        Ok((Some(view), look.object))
    }

    /// The same from members of the version before, where all buckets are plain.
    async fn look_before_4(
        &self,
        bucket: &str,
        key: Option<(Vec<u8>, Option<VersionName>)>,
    ) -> S3Result<Look> {
        let found = self.ask(BucketNamed { name: bucket.to_owned() }).await?;
        let mut object = LookedUp::NotAsked;
        if let (Some(bucket), Some((key, _))) = (&found, key) {
            let version = self.ask(CurrentVersion { bucket: bucket.id, key }).await?;
            let plain = |version| {
                LookedUp::Found(Box::new(Object { version, extra: Extra::default(), latest: true }))
            };
            object = version.map_or(LookedUp::NoKey, plain);
        }
        Ok(Look { bucket: found, config: Some(BucketConfig::default()), identities: 0, object })
    }

    /// Makes a request's scene, and judges it.
    async fn judge(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(rule) = rule_of(context.s3_op().name()) else {
            return Err(s3_error!(NotImplemented, "The operation is not implemented"));
        };
        let facts = Facts::of(context);
        let (bucket_name, key) = match context.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.to_string()), None),
            S3Path::Object { bucket, key } => (Some(bucket.to_string()), Some(key.to_string())),
        };
        let version = facts.query.get("versionId").map(str::to_owned);
        let name = version.as_deref().map(super::versions::parse_version).transpose()?;
        let wanted = match (&key, rule.target) {
            (Some(key), Target::Object) => Some((key.clone().into_bytes(), name)),
            _ => None,
        };
        let (bucket, object) = match &bucket_name {
            Some(bucket) => self.look(bucket, wanted).await?,
            // No bucket has an empty name: what is learned is whether identities changed.
            None => self.look("", None).await?,
        };
        // Only now it is known whether the key that the request was checked with is still good.
        let token = facts.headers.get("x-amz-security-token");
        let token = token.map(|token| token.to_str().map_err(|_| invalid_token())).transpose()?;
        // Of a form, it is one of the fields that its policy is about.
        let in_form = context.extensions_mut().get::<FormFields>().and_then(|fields| fields.token.clone());
        let token = token.or(in_form.as_deref());
        let who = match context.credentials() {
            Some(given) => self.identify(&given.access_key, &given.secret_key, token).await?,
            None => Who::Anonymous,
        };
        if rule.target == Target::Service || rule.target == Target::NewBucket {
            if matches!(who, Who::Anonymous) {
                return Err(denied());
            }
        } else if bucket.is_none() {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        if bucket.as_ref().is_some_and(|bucket| bucket.logging.is_some())
            && let Some(note) = context.extensions_mut().get::<Note>()
        {
            note.take(Noted { requester: requester(&who), key: key.clone().unwrap_or_default() });
        }
        let form = context.s3_op().name() == "PostObject";
        let scene = Scene { who, bucket, object, form, facts };
        if let Some(bucket) = &scene.bucket {
            self.check_owner(context.headers(), "x-amz-expected-bucket-owner", bucket)?;
        }
        scene.check(rule, key.as_deref(), version.is_some())?;
        context.extensions_mut().insert(Arc::new(scene));
        Ok(())
    }
}

/// Times that a version is looked at again which was replaced meanwhile.
const RETRIES: usize = 8;

impl S3Door {
    /// Changes a version as `change` says of what is found. What was judged is what is changed: where another version took its
    /// place meanwhile, that one is judged too.
    ///
    /// # Errors
    /// Where the caller may not, or there is nothing to change.
    pub async fn change_version(
        &self,
        scene: &Scene,
        operation: &str,
        key: &str,
        version: Option<&str>,
        change: impl Fn(&Scene, &Object) -> S3Result<VersionChange>,
    ) -> S3Result<Object> {
        let rule = rule_of(operation).ok_or_else(denied)?;
        let name = version.map(super::versions::parse_version).transpose()?;
        let bucket = scene.bucket()?;
        let mut again: Option<Scene> = None;
        for _ in 0..RETRIES {
            let current = again.as_ref().unwrap_or(scene);
            let object = current.found(name.is_some())?.clone();
            let command = Command::ChangeVersion {
                bucket: bucket.bucket.id,
                key: key.as_bytes().to_vec(),
                version: name,
                judged: object.version.id,
                change: change(current, &object)?,
            };
            match self.engine.run(command).await {
                Ok(_) => return Ok(object),
                Err(EngineError::Rejected(Rejection::PreconditionFailed)) => {}
                Err(failed) => return Err(error::engine(failed)),
            }
            let (view, found) = self.look(&bucket.bucket.name, Some((key.as_bytes().to_vec(), name))).await?;
            let next = scene.about(view.unwrap_or_else(|| bucket.clone()), found);
            next.check(rule, Some(key), name.is_some())?;
            again = Some(next);
        }
        Err(s3_error!(SlowDown, "The object is being replaced too quickly"))
    }

    /// # Errors
    /// Where a bucket has another owner than the header demands.
    pub fn check_owner(&self, headers: &HeaderMap, header: &str, bucket: &BucketView) -> S3Result<()> {
        let Some(wanted) = headers.get(header) else { return Ok(()) };
        let owner = &bucket.config.owner;
        let identities = self.directory.now();
        let account = match owner.is_empty() {
            true => OWNER_ACCOUNT,
            false => identities.users.get(owner).map_or("", |known| &known.user.account),
        };
        let same = [crate::identity::shown(owner), account]
            .iter()
            .any(|id| !id.is_empty() && wanted.as_bytes() == id.as_bytes());
        if same { Ok(()) } else { Err(denied()) }
    }
}

impl Scene {
    fn check(&self, rule: Rule, key: Option<&str>, names_version: bool) -> S3Result<()> {
        match rule.target {
            Target::Service if self.may_outside(rule.action, "arn:aws:s3:::*") => return Ok(()),
            Target::Service => return Err(denied()),
            // With all that it is set to.
            Target::NewBucket => return Ok(()),
            Target::Bucket | Target::Key | Target::Later | Target::Object => {}
        }
        if rule.target == Target::Later {
            return Ok(());
        }
        let action = rule.action(names_version);
        let object = match &self.object {
            LookedUp::Found(found) => Some(&found.extra),
            LookedUp::NotAsked | LookedUp::NoKey | LookedUp::NoVersion => None,
        };
        if rule.target != Target::Object || object.is_some_and(|extra| !extra.marker) {
            return if self.may(action, rule.grant(names_version), key, object) {
                Ok(())
            } else {
                Err(denied())
            };
        }
        // Whether a key exists is known to whoever may list.
        let listing = self.as_listing(key.unwrap_or_default());
        if listing.may("s3:ListBucket", Grant::Read, None, None) { Ok(()) } else { Err(denied()) }
    }
}

fn invalid_token() -> S3Error {
    s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid.")
}

impl S3Door {
    /// The secret of a key that is good, or of a session's.
    ///
    /// # Errors
    /// Where the metadata does not answer.
    pub async fn secret_of(&self, access: &str) -> Result<Option<SecretKey>, MetaError> {
        if access.starts_with(session::PREFIX) {
            return Ok(session::secret_of(&self.keyring, access).await.map(SecretKey::from));
        }
        self.directory.secret_of(access).await
    }

    /// Whose a key is that a request was just checked with.
    ///
    /// # Errors
    /// Where it is nobody's any more, or its session is over.
    pub async fn identify(&self, access: &str, secret: &SecretKey, token: Option<&str>) -> S3Result<Who> {
        if !access.starts_with(session::PREFIX) {
            // Keys that last come with no token.
            return match token {
                None => self.directory.holder(access, secret).ok_or_else(unknown_key),
                Some(_) => Err(invalid_token()),
            };
        }
        let token = token.ok_or_else(invalid_token)?;
        let known = self.directory.now();
        session::resolve(&self.keyring, &known, access, token, unix_ms()).await.map_err(|bad| match bad {
            session::BadToken::Invalid => invalid_token(),
            session::BadToken::Expired => s3_error!(ExpiredToken, "The provided token has expired."),
        })
    }
}

/// Whoever sends a request, as access logs call them.
fn requester(who: &Who) -> String {
    match who.caller() {
        Caller::User { arn, canonical, .. } if arn.ends_with(":root") => canonical.to_owned(),
        Caller::User { arn, .. } => arn.to_owned(),
        Caller::Anonymous | Caller::Federated(_) => String::new(),
    }
}

fn unknown_key() -> S3Error {
    s3_error!(InvalidAccessKeyId, "The AWS access key Id you provided does not exist in our records")
}

/// The door's own guard, as s3s asks it.
#[derive(Clone)]
pub struct Guard(pub S3Door);

#[async_trait::async_trait]
impl S3Auth for Guard {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let found = self.0.secret_of(access_key).await;
        found.map_err(|failed| error::engine(EngineError::Meta(failed)))?.ok_or_else(unknown_key)
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        signature::check(context)?;
        self.0.judge(context).await
    }
}

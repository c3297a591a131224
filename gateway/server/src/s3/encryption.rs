//! Server-side encryption: what requests ask for, what is kept of it with an object, and with which key its chunks open.

use super::{
    S3Door,
    access::{Scene, scene},
    documents::{kept, malformed, set, to_xml},
    error,
    extras::header,
    replication::Rule,
    settings::{BucketView, from_xml},
};
use crate::{
    identity::Who,
    keyring::{DEFAULT_KEY, KeyringError, SYSTEM_KEY},
    seal::{Purpose, Seal},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use holdfast_gateway_md5::Md5;
use holdfast_meta_raft_machine::records::{ENCRYPTION, Extra};
use hyper::{HeaderMap, StatusCode};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        self, GetBucketEncryptionInput, GetBucketEncryptionOutput, PutBucketEncryptionInput,
        PutBucketEncryptionOutput, ServerSideEncryption, ServerSideEncryptionConfiguration,
    },
    s3_error,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

const METHOD: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CUSTOMER: [&str; 3] = [
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];
const SOURCE_CUSTOMER: [&str; 3] = [
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
];

/// How an object is encrypted, as it is kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Kept {
    /// SSE-S3: with the system's own key.
    System { version: u32 },
    /// SSE-KMS.
    Kms {
        key: String,
        version: u32,
        /// The key as the request named it.
        shown: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<String>,
        #[serde(default)]
        bucket_key: bool,
    },
    /// SSE-C. Of the key a salted hash is kept, in hexadecimal both.
    Customer { salt: String, check: String },
}

impl Kept {
    fn method(&self) -> Option<ServerSideEncryption> {
        match self {
            Self::System { .. } => Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256)),
            Self::Kms { .. } => Some(ServerSideEncryption::from_static(ServerSideEncryption::AWS_KMS)),
            Self::Customer { .. } => None,
        }
    }

    fn kms_key(&self) -> Option<String> {
        match self {
            Self::Kms { shown, .. } => Some(shown.clone()),
            Self::System { .. } | Self::Customer { .. } => None,
        }
    }
}

/// What buckets encrypt with that nobody gave a key for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Default {
    System,
    Kms { key: Option<String>, bucket_key: bool },
}

impl Default {
    /// Reads a bucket's document. One that cannot be read must not let plain bytes through.
    pub fn read(text: &str) -> Result<Self, ()> {
        let config = from_xml::<ServerSideEncryptionConfiguration>(text).ok_or(())?;
        let rule = config.rules.first().ok_or(())?;
        let by_default = rule.apply_server_side_encryption_by_default.as_ref().ok_or(())?;
        match by_default.sse_algorithm.as_str() {
            ServerSideEncryption::AES256 => Ok(Self::System),
            ServerSideEncryption::AWS_KMS => Ok(Self::Kms {
                key: by_default.kms_master_key_id.clone(),
                bucket_key: rule.bucket_key_enabled == Some(true),
            }),
            _ => Err(()),
        }
    }
}

/// How an object is encrypted, and with what.
#[derive(Clone)]
pub struct Encryption {
    kept: Kept,
    pub seal: Seal,
    /// Of a customer's key.
    pub customer_md5: Option<String>,
}

/// A key that came with a request.
struct Brought {
    key: [u8; 32],
    md5: String,
}

impl Brought {
    /// The key in headers of these names: algorithm, key and the key's MD5.
    fn read(headers: &HeaderMap, names: [&str; 3]) -> S3Result<Option<Self>> {
        let [algorithm, key, md5] = names.map(|name| header(headers, name));
        let (algorithm, key, md5) = (algorithm?, key?, md5?);
        if algorithm.is_none() && key.is_none() && md5.is_none() {
            return Ok(None);
        }
        let wrong = |message: &str| {
            s3_error!(
                InvalidArgument,
                "Requests specifying Server Side Encryption with Customer provided keys must provide {message}"
            )
        };
        let algorithm = algorithm.ok_or_else(|| wrong("a valid encryption algorithm."))?;
        let key = key.ok_or_else(|| wrong("an appropriate secret key."))?;
        let md5 = md5.ok_or_else(|| wrong("the client calculated MD5 of the secret key."))?;
        if algorithm != "AES256" {
            return Err(error::custom(
                "InvalidEncryptionAlgorithmError",
                StatusCode::BAD_REQUEST,
                "The encryption request that you specified is not valid. The valid value is AES256.",
            ));
        }
        let bytes = BASE64_STANDARD.decode(key).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
        let Some(key) = bytes else {
            return Err(s3_error!(
                InvalidArgument,
                "The secret key was invalid for the specified algorithm."
            ));
        };
        let mut sum = Md5::default();
        sum.update(&key);
        if BASE64_STANDARD.encode(sum.finish()) != md5 {
            return Err(s3_error!(
                InvalidArgument,
                "The calculated MD5 hash of the key did not match the hash that was provided."
            ));
        }
        Ok(Some(Self { key, md5: md5.to_owned() }))
    }

    fn check(&self, salt: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("holdfast 2026-11-23 which key a client brought");
        hasher.update(salt).update(&self.key);
        *hasher.finalize().as_bytes()
    }

    fn seal(&self) -> Seal {
        Seal::new(Purpose::Brought, &self.key)
    }
}

fn keyring_error(error: KeyringError) -> S3Error {
    let message = error.to_string();
    match error {
        KeyringError::Unknown(_) => error::custom("KMS.NotFoundException", StatusCode::BAD_REQUEST, &message),
        KeyringError::Disabled(_) => {
            error::custom("KMS.DisabledException", StatusCode::BAD_REQUEST, &message)
        }
        KeyringError::Service(_) => s3_error!(InternalError, "{message}"),
        KeyringError::Meta(failed) => error::engine(failed.into()),
    }
}

/// A key by its id, its alias, or the name of either as a resource.
fn key_id(named: &str) -> &str {
    let named = match named.strip_prefix("arn:aws:kms:") {
        Some(arn) => arn.splitn(3, ':').nth(2).unwrap_or(arn),
        None => named,
    };
    named.strip_prefix("key/").or_else(|| named.strip_prefix("alias/")).unwrap_or(named)
}

/// Whether the caller may do something with a key: its own policies say so, if it has any; and nobody is somebody.
fn check_key(scene: &Scene, action: &str, id: &str) -> S3Result<()> {
    let resource = format!("arn:aws:kms:{}:{}:key/{id}", super::REGION, crate::identity::OWNER_ACCOUNT);
    let known = !matches!(scene.who, Who::Anonymous);
    match known && scene.may_outside(action, &resource) {
        true => Ok(()),
        false => Err(s3_error!(AccessDenied, "Access Denied")),
    }
}

impl Encryption {
    /// How the object of a write is to be encrypted.
    ///
    /// # Errors
    /// Where the request is malformed, or may not use the key.
    pub async fn of_write(
        door: &S3Door,
        scene: &Scene,
        headers: &HeaderMap,
        bucket: &BucketView,
    ) -> S3Result<Option<Self>> {
        let (brought, method) = (Brought::read(headers, CUSTOMER)?, header(headers, METHOD)?);
        let key = header(headers, KMS_KEY)?;
        if key.is_some() && method != Some(ServerSideEncryption::AWS_KMS) {
            return Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms"
            ));
        }
        match (brought, method) {
            (Some(_), Some(_)) => Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
            )),
            (Some(brought), None) => {
                let salt: [u8; 16] = rand::random();
                let check = hex::encode(brought.check(&salt));
                let kept = Kept::Customer { salt: hex::encode(salt), check };
                Ok(Some(Self { kept, seal: brought.seal(), customer_md5: Some(brought.md5) }))
            }
            (None, Some(ServerSideEncryption::AES256)) => Self::system(door).await.map(Some),
            (None, Some(ServerSideEncryption::AWS_KMS)) => {
                let context = header(headers, "x-amz-server-side-encryption-context")?;
                let wanted = header(headers, "x-amz-server-side-encryption-bucket-key-enabled")?;
                let bucket_key = wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("true"));
                Self::kms(door, Some(scene), key, context, bucket_key).await.map(Some)
            }
            (None, Some(_)) => {
                Err(s3_error!(InvalidArgument, "The encryption method specified is not supported"))
            }
            (None, None) => Self::by_default(door, Some(scene), bucket).await,
        }
    }

    /// How an object of the system's own is encrypted in a bucket.
    ///
    /// # Errors
    /// Where the bucket's key cannot be used.
    pub async fn of_log(door: &S3Door, bucket: &BucketView) -> S3Result<Option<Self>> {
        Self::by_default(door, None, bucket).await
    }

    /// What a bucket encrypts with; what the system writes itself has no scene.
    async fn by_default(door: &S3Door, scene: Option<&Scene>, bucket: &BucketView) -> S3Result<Option<Self>> {
        match &bucket.encryption {
            None => Ok(None),
            Some(Ok(Default::System)) => Self::system(door).await.map(Some),
            Some(Ok(Default::Kms { key, bucket_key })) => {
                Self::kms(door, scene, key.as_deref(), None, *bucket_key).await.map(Some)
            }
            Some(Err(())) => {
                Err(s3_error!(InternalError, "The bucket's encryption configuration cannot be read"))
            }
        }
    }

    async fn system(door: &S3Door) -> S3Result<Self> {
        let (version, seal) = door.keyring.newest(SYSTEM_KEY).await.map_err(keyring_error)?;
        Ok(Self { kept: Kept::System { version }, seal, customer_md5: None })
    }

    async fn kms(
        door: &S3Door,
        scene: Option<&Scene>,
        named: Option<&str>,
        context: Option<&str>,
        bucket_key: bool,
    ) -> S3Result<Self> {
        let shown = named.filter(|named| !named.is_empty()).unwrap_or(DEFAULT_KEY);
        let key = key_id(shown);
        if key.starts_with("holdfast/") {
            return Err(keyring_error(KeyringError::Unknown(key.to_owned())));
        }
        if let Some(scene) = scene {
            check_key(scene, "kms:GenerateDataKey", key)?;
        }
        let is_map = |text: &str| {
            let bytes = BASE64_STANDARD.decode(text).ok();
            bytes.is_some_and(|bytes| {
                serde_json::from_slice::<std::collections::BTreeMap<String, String>>(&bytes).is_ok()
            })
        };
        if context.is_some_and(|context| context.len() > 8192 || !is_map(context)) {
            return Err(s3_error!(
                InvalidArgument,
                "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON which represents a string-string map"
            ));
        }
        let (version, seal) = door.keyring.newest(key).await.map_err(keyring_error)?;
        let (key, shown, context) = (key.to_owned(), shown.to_owned(), context.map(str::to_owned));
        Ok(Self { kept: Kept::Kms { key, version, shown, context, bucket_key }, seal, customer_md5: None })
    }

    /// How an object opens, for a request that reads it.
    ///
    /// # Errors
    /// Where the request does not bring the key, or may not use it.
    pub async fn of_read(
        door: &S3Door,
        scene: &Scene,
        headers: &HeaderMap,
        extra: &Extra,
    ) -> S3Result<Option<Self>> {
        if headers.contains_key(METHOD) || headers.contains_key(KMS_KEY) {
            return Err(s3_error!(
                InvalidArgument,
                "x-amz-server-side-encryption header is not supported for this operation."
            ));
        }
        Self::opened(door, Some(scene), Brought::read(headers, CUSTOMER)?, extra).await
    }

    /// How an object opens that the system itself copies to another cluster.
    ///
    /// # Errors
    /// Where it is under a customer's key, or its key cannot be used.
    pub async fn of_copy(door: &S3Door, extra: &Extra) -> S3Result<Option<Self>> {
        Self::opened(door, None, None, extra).await
    }

    /// Whether an object may be copied to another cluster: one under a key of the key service only where the rule names
    /// another one there, and from buckets of the system's owner, who may use all keys.
    pub fn may_be_copied(&self, bucket: &BucketView, rule: &Rule) -> bool {
        match self.kept {
            Kept::System { .. } => true,
            Kept::Kms { .. } => rule.kms_key.is_some() && bucket.config.owner.is_empty(),
            Kept::Customer { .. } => false,
        }
    }

    /// What the other cluster is asked to encrypt a copy with.
    pub fn asked_of<'a>(&self, key: Option<&'a str>) -> Option<(&'static str, Option<&'a str>)> {
        match self.kept {
            Kept::System { .. } => Some((ServerSideEncryption::AES256, None)),
            Kept::Kms { .. } => Some((ServerSideEncryption::AWS_KMS, key)),
            Kept::Customer { .. } => None,
        }
    }

    /// The same of a copy's source.
    ///
    /// # Errors
    /// See [`of_read`](Self::of_read).
    pub async fn of_source(
        door: &S3Door,
        scene: &Scene,
        headers: &HeaderMap,
        extra: &Extra,
    ) -> S3Result<Option<Self>> {
        Self::opened(door, Some(scene), Brought::read(headers, SOURCE_CUSTOMER)?, extra).await
    }

    /// Whether chunks of one are chunks of the other.
    pub fn same_domain(one: Option<&Self>, other: Option<&Self>) -> bool {
        one.map(|one| &one.seal) == other.map(|other| &other.seal)
    }

    /// How the parts of an upload are encrypted.
    ///
    /// # Errors
    /// See [`of_read`](Self::of_read).
    pub async fn of_part(
        door: &S3Door,
        scene: &Scene,
        headers: &HeaderMap,
        upload: &Extra,
    ) -> S3Result<Option<Self>> {
        Self::opened(door, Some(scene), Brought::read(headers, CUSTOMER)?, upload).await
    }

    /// Checks the key that the completion of an upload brings. One whose parts have checksums must bring its own.
    ///
    /// # Errors
    /// See [`of_read`](Self::of_read).
    pub async fn check_completion(
        door: &S3Door,
        scene: &Scene,
        upload: &Extra,
        has_checksums: bool,
    ) -> S3Result<()> {
        let brought = Brought::read(scene.headers(), CUSTOMER)?;
        if has_checksums || brought.is_some() {
            Self::opened(door, Some(scene), brought, upload).await?;
        }
        Ok(())
    }

    /// What the system opens itself has no scene.
    async fn opened(
        door: &S3Door,
        scene: Option<&Scene>,
        brought: Option<Brought>,
        extra: &Extra,
    ) -> S3Result<Option<Self>> {
        let Some(text) = extra.documents.get(ENCRYPTION) else {
            return match brought {
                None => Ok(None),
                Some(_) => Err(s3_error!(
                    InvalidRequest,
                    "The encryption parameters are not applicable to this object."
                )),
            };
        };
        let kept: Kept = serde_json::from_str(text)
            .map_err(|_| s3_error!(InternalError, "The object's encryption record is damaged"))?;
        let seal = match (&kept, &brought) {
            (Kept::Customer { .. }, None) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
                ));
            }
            (Kept::Customer { salt, check }, Some(brought)) => {
                let salt = hex::decode(salt).unwrap_or_default();
                let check = hex::decode(check).unwrap_or_default();
                if !bool::from(brought.check(&salt).as_slice().ct_eq(&check)) {
                    return Err(s3_error!(
                        InvalidRequest,
                        "The provided encryption parameters did not match the ones used originally."
                    ));
                }
                brought.seal()
            }
            (Kept::System { .. } | Kept::Kms { .. }, Some(_)) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "The encryption parameters are not applicable to this object."
                ));
            }
            (Kept::System { version }, None) => {
                door.keyring.version(SYSTEM_KEY, *version).await.map_err(keyring_error)?
            }
            (Kept::Kms { key, version, .. }, None) => {
                if let Some(scene) = scene {
                    check_key(scene, "kms:Decrypt", key)?;
                }
                door.keyring.version(key, *version).await.map_err(keyring_error)?
            }
        };
        Ok(Some(Self { kept, seal, customer_md5: brought.map(|brought| brought.md5) }))
    }

    /// Keeps it with a version that is written.
    ///
    /// # Errors
    /// Where it cannot be written down.
    pub fn keep(&self, extra: &mut Extra) -> S3Result<()> {
        let text = serde_json::to_string(&self.kept).map_err(|error| s3_error!(error, InternalError))?;
        extra.documents.insert(ENCRYPTION.to_owned(), text);
        Ok(())
    }

    /// `x-amz-server-side-encryption`, of those that have a method.
    pub fn method(&self) -> Option<ServerSideEncryption> {
        self.kept.method()
    }

    pub fn kms_key(&self) -> Option<String> {
        self.kept.kms_key()
    }

    pub fn bucket_key(&self) -> Option<bool> {
        match &self.kept {
            Kept::Kms { bucket_key, .. } => bucket_key.then_some(true),
            Kept::System { .. } | Kept::Customer { .. } => None,
        }
    }
}

/// Takes the object's own word for how it is encrypted, for answers that need no key.
pub fn shown(extra: &Extra) -> (Option<ServerSideEncryption>, Option<String>) {
    let kept = extra.documents.get(ENCRYPTION).and_then(|text| serde_json::from_str::<Kept>(text).ok());
    kept.map_or((None, None), |kept| (kept.method(), kept.kms_key()))
}

/// Sets the fields that answers about encrypted objects share.
macro_rules! set_encryption {
    ($output:expr, $encryption:expr) => {
        if let Some(encryption) = $encryption {
            $output.server_side_encryption = encryption.method();
            $output.ssekms_key_id = encryption.kms_key();
            $output.bucket_key_enabled = encryption.bucket_key();
            $output.sse_customer_algorithm = encryption.customer_md5.as_ref().map(|_| "AES256".to_owned());
            $output.sse_customer_key_md5 = encryption.customer_md5.clone();
        }
    };
}
pub(crate) use set_encryption;

pub fn get_bucket_encryption(
    _door: &S3Door,
    request: S3Request<GetBucketEncryptionInput>,
) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    let scene = scene(&request)?;
    let absent = || {
        error::custom(
            "ServerSideEncryptionConfigurationNotFoundError",
            StatusCode::NOT_FOUND,
            "The server side encryption configuration was not found",
        )
    };
    let text = kept(scene.bucket()?, ENCRYPTION, absent)?;
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: from_xml(text) }))
}

pub async fn put_bucket_encryption(
    door: &S3Door,
    request: S3Request<PutBucketEncryptionInput>,
) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
    let scene = scene(&request)?;
    let text = to_xml(&request.input.server_side_encryption_configuration)?;
    let named = |rule: &dto::ServerSideEncryptionRule| {
        let by_default = rule.apply_server_side_encryption_by_default.as_ref();
        by_default.and_then(|by_default| by_default.kms_master_key_id.clone())
    };
    let rules = &request.input.server_side_encryption_configuration.rules;
    let stray = match Default::read(&text) {
        Ok(Default::System) => rules.iter().any(|rule| named(rule).is_some()),
        Ok(Default::Kms { .. }) => false,
        Err(()) => return Err(malformed()),
    };
    if rules.len() != 1 {
        return Err(malformed());
    }
    if stray {
        return Err(s3_error!(
            InvalidArgument,
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms"
        ));
    }
    set(door, scene.bucket()?, ENCRYPTION, Some(text)).await?;
    Ok(S3Response::new(PutBucketEncryptionOutput::default()))
}

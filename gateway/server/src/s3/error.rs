//! What went wrong inside, as S3 says it.

use crate::engine::EngineError;
use holdfast_core::kv::KvError;
use holdfast_meta_raft_machine::command::Rejection;
use holdfast_meta_raft_server::MetaError;
use s3s::{S3Error, S3ErrorCode, s3_error};

/// An error whose code s3s does not know.
pub fn custom(code: &'static str, status: hyper::StatusCode, message: &str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message.to_owned());
    error.set_status_code(status);
    error
}

pub fn kv(error: KvError) -> S3Error {
    tracing::error!(%error, "the metadata cannot be read");
    s3_error!(InternalError, "We encountered an internal error. Please try again.")
}

pub fn rejection(rejection: &Rejection) -> S3Error {
    match rejection {
        Rejection::NoSuchBucket => s3_error!(NoSuchBucket, "The specified bucket does not exist"),
        Rejection::BucketExists => {
            s3_error!(
                BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it."
            )
        }
        Rejection::BucketNotEmpty => s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"),
        Rejection::NoSuchKey => s3_error!(NoSuchKey, "The specified key does not exist."),
        Rejection::BadKey => s3_error!(KeyTooLongError, "Your key is too long"),
        Rejection::PreconditionFailed | Rejection::Overtaken { .. } => {
            s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
        }
        Rejection::NoSuchUpload => s3_error!(
            NoSuchUpload,
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
        ),
        Rejection::InvalidPart(number) => s3_error!(
            InvalidPart,
            "Part {number} could not be found. It may not have been uploaded, or its entity tag may not match."
        ),
        Rejection::InvalidPartOrder => {
            s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            )
        }
        Rejection::PartTooSmall(number) => {
            s3_error!(
                EntityTooSmall,
                "Your proposed upload is smaller than the minimum allowed size (part {number})"
            )
        }
        Rejection::TooLarge => {
            s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
        }
        Rejection::Malformed => s3_error!(InvalidRequest, "The request is malformed"),
        Rejection::ChunkGone(_) | Rejection::SegmentGone | Rejection::StaleEpoch { .. } => {
            s3_error!(SlowDown, "Please try again: the request raced with maintenance")
        }
        Rejection::RequestExpired => s3_error!(RequestTimeTooSkewed, "The request is too old"),
        Rejection::NoSuchVersion => s3_error!(NoSuchVersion, "The specified version does not exist."),
        Rejection::IsMarker => {
            s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")
        }
        Rejection::Locked => {
            s3_error!(AccessDenied, "Access Denied because object protected by object lock.")
        }
        Rejection::BucketState => {
            s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration")
        }
        Rejection::OverQuota => custom(
            "QuotaExceeded",
            hyper::StatusCode::FORBIDDEN,
            "The owner of the bucket may not store more",
        ),
        Rejection::IdentitiesChanged => s3_error!(SlowDown, "Please try again"),
        Rejection::NeedsClusterVersion(_) => custom(
            "NotImplemented",
            hyper::StatusCode::NOT_IMPLEMENTED,
            "Not all hosts of the cluster know this yet: it is being upgraded",
        ),
        Rejection::NoSuchPg
        | Rejection::BelowQuorum
        | Rejection::Tombstoned
        | Rejection::NoSuchPack
        | Rejection::PackInUse
        | Rejection::NoSuchDevice
        | Rejection::PoolExists
        | Rejection::CollectionStopped(_)
        | Rejection::ClusterExists
        | Rejection::BadToken
        | Rejection::TokenExpired
        | Rejection::RolesNotAllowed
        | Rejection::NameTaken
        | Rejection::NoSuchHost
        | Rejection::PgMoving(_)
        | Rejection::NotYourDevice
        | Rejection::NotReplaceable => {
            tracing::error!(%rejection, "a request was rejected for a reason that no client should see");
            s3_error!(InternalError, "We encountered an internal error. Please try again.")
        }
    }
}

/// What `failed` is told as, where it is the `expected` rejection; any other error as always.
pub fn expecting(expected: &Rejection, told: S3Error) -> impl FnOnce(EngineError) -> S3Error {
    move |failed| match matches!(&failed, EngineError::Rejected(rejected) if rejected == expected) {
        true => told,
        false => engine(failed),
    }
}

pub fn engine(error: EngineError) -> S3Error {
    match error {
        EngineError::Rejected(rejected) => rejection(&rejected),
        EngineError::Kv(error) | EngineError::Meta(MetaError::Store(error)) => kv(error),
        EngineError::TooLarge => {
            s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
        }
        EngineError::Stalled => {
            s3_error!(
                RequestTimeout,
                "Your socket connection to the server was not read from or written to within the timeout period."
            )
        }
        EngineError::Body(source) => match source.downcast::<EngineError>() {
            // The body of a copy comes from here.
            Ok(ours) => engine(*ours),
            Err(source) => body(&*source),
        },
        EngineError::Full => {
            tracing::warn!("the devices are full: new data is refused");
            let status = hyper::StatusCode::INSUFFICIENT_STORAGE;
            custom("InsufficientStorage", status, "The devices are full. Delete data or add devices.")
        }
        EngineError::BelowQuorum { durable, quorum } => {
            tracing::warn!(durable, quorum, "a write was refused: too few devices");
            s3_error!(
                ServiceUnavailable,
                "Too few devices are available to store the object durably. Please try again."
            )
        }
        EngineError::Meta(error) if error.is_passing() && !matches!(error, MetaError::Busy) => {
            tracing::warn!(%error, "the metadata did not answer in time");
            s3_error!(ServiceUnavailable, "The metadata cannot be reached. Please try again.")
        }
        EngineError::Meta(MetaError::Busy) | EngineError::Gone => {
            s3_error!(SlowDown, "Please reduce your request rate")
        }
        EngineError::ShuttingDown
        | EngineError::Thread(_)
        | EngineError::Archive(_)
        | EngineError::Meta(MetaError::Stopped) => {
            s3_error!(ServiceUnavailable, "The server is shutting down. Please try again.")
        }
        EngineError::OtherKey => {
            tracing::error!("an encrypted object does not open with the key that its record names");
            s3_error!(InternalError, "The object cannot be decrypted")
        }
        EngineError::Unreadable(pack) => {
            tracing::error!(%pack, "an object cannot be read: more shards are lost than parity can replace");
            s3_error!(InternalError, "The object cannot be read now: too many devices are missing")
        }
        EngineError::Meta(error) => {
            tracing::error!(%error, "the metadata service failed");
            s3_error!(InternalError, "We encountered an internal error. Please try again.")
        }
    }
}

/// Why a body ended. s3s's error types are private; what they print is not.
fn body(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        text.push_str(&error.to_string());
        text.push(' ');
        next = error.source();
    }
    let has = |word: &str| text.contains(word);
    if has("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return custom("XAmzContentSHA256Mismatch", hyper::StatusCode::BAD_REQUEST, message);
    }
    if has("SignatureMismatch") {
        return s3_error!(SignatureDoesNotMatch, "A chunk's signature does not match what was computed.");
    }
    tracing::debug!(error = %text, "a body ended early");
    s3_error!(
        IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header."
    )
}

//! The AWS SDK for Rust against one process and against a cluster, feature by feature; and races for whatever may be
//! demanded of a write, with exactly one winner.

mod common;

use aws_sdk_s3::{
    Client,
    config::{Builder, Credentials, Region},
    error::{ProvideErrorMetadata, SdkError},
    presigning::PresigningConfig,
    primitives::ByteStream,
    types::{
        BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload,
        CompletedPart, CorsConfiguration, CorsRule, Delete, MetadataDirective, ObjectIdentifier,
        ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode,
        ServerSideEncryption, Tag, Tagging, VersioningConfiguration,
    },
};
use common::{ACCESS_KEY, SECRET_KEY, Server, client::fetch, cluster::Cluster, noise};
use std::{fmt::Debug, time::Duration};
use tokio::task::JoinSet;

/// Writers of one race.
const RACERS: usize = 12;

fn client(address: &str, access: &str, secret: &str) -> Client {
    let config = Builder::new()
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(Credentials::new(access, secret, None, None, "test"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

/// The name that S3 gives to the error.
fn code<T: Debug, E: ProvideErrorMetadata + Debug, R: Debug>(result: Result<T, SdkError<E, R>>) -> String {
    let error = result.expect_err("it is refused");
    match error.raw_code() {
        Some(code) => code.to_owned(),
        None => format!("{error:?}"),
    }
}

/// The error's name, of services and of what comes before them.
trait RawCode {
    fn raw_code(&self) -> Option<&str>;
}

impl<E: ProvideErrorMetadata, R> RawCode for SdkError<E, R> {
    fn raw_code(&self) -> Option<&str> {
        self.as_service_error().and_then(ProvideErrorMetadata::code)
    }
}

async fn put(s3: &Client, key: &str, body: &[u8]) {
    let body = ByteStream::from(body.to_vec());
    s3.put_object().bucket("box").key(key).body(body).send().await.expect("a put");
}

async fn get(s3: &Client, key: &str) -> Vec<u8> {
    let found = s3.get_object().bucket("box").key(key).checksum_mode(ChecksumMode::Enabled).send().await;
    found.expect("an object").body.collect().await.expect("its bytes").to_vec()
}

async fn objects(s3: &Client) {
    put(s3, "a b/ü", b"first").await;
    assert_eq!(get(s3, "a b/ü").await, b"first");
    let range = s3.get_object().bucket("box").key("a b/ü").range("bytes=1-3").send().await.expect("a range");
    assert_eq!(range.content_range(), Some("bytes 1-3/5"));
    assert_eq!(range.body.collect().await.expect("bytes").to_vec(), b"irs");
    let copy = s3.copy_object().bucket("box").key("copy").copy_source("box/a%20b/%C3%BC");
    let copy = copy.metadata_directive(MetadataDirective::Replace).metadata("colour", "blue");
    copy.send().await.expect("a copy");
    let head = s3.head_object().bucket("box").key("copy").send().await.expect("it is there");
    assert_eq!(head.metadata().and_then(|pairs| pairs.get("colour")).map(String::as_str), Some("blue"));
    for number in 0..25 {
        put(s3, &format!("many/{number:02}"), b"x").await;
    }
    let mut pages = s3.list_objects_v2().bucket("box").prefix("many/").into_paginator().page_size(10).send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page.expect("a page").contents().iter().filter_map(|one| one.key().map(str::to_owned)));
    }
    assert_eq!(keys.len(), 25);
    let grouped = s3.list_objects_v2().bucket("box").delimiter("/").send().await.expect("a list");
    assert_eq!(grouped.common_prefixes().len(), 2);
    let wanted = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().expect("a key"));
    let wanted = Delete::builder().set_objects(Some(wanted.collect())).build().expect("a list");
    let deleted = s3.delete_objects().bucket("box").delete(wanted).send().await.expect("a deletion");
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (25, 0));
    assert_eq!(code(s3.get_object().bucket("box").key("many/00").send().await), "NoSuchKey");
}

async fn checksums(s3: &Client) {
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"] {
        let body = noise(5, 200_000);
        let put = s3.put_object().bucket("box").key(algorithm).checksum_algorithm(algorithm.into());
        put.body(ByteStream::from(body.clone())).send().await.expect("a put");
        assert_eq!(get(s3, algorithm).await, body);
    }
    let wrong = s3.put_object().bucket("box").key("wrong").checksum_sha256("AAAA".repeat(10) + "AAA=");
    assert_eq!(code(wrong.body(ByteStream::from_static(b"x")).send().await), "BadDigest");
}

async fn begin(s3: &Client, key: &str, parts: &[Vec<u8>]) -> (String, CompletedMultipartUpload) {
    let begun =
        s3.create_multipart_upload().bucket("box").key(key).checksum_algorithm(ChecksumAlgorithm::Crc32C);
    let begun = begun.checksum_type(ChecksumType::FullObject).send().await.expect("an upload");
    let id = begun.upload_id().expect("an id").to_owned();
    let mut list = CompletedMultipartUpload::builder();
    for (number, part) in (1..).zip(parts) {
        let sent = s3.upload_part().bucket("box").key(key).upload_id(&id).part_number(number);
        let sent = sent.checksum_algorithm(ChecksumAlgorithm::Crc32C).body(ByteStream::from(part.clone()));
        let sent = sent.send().await.expect("a part");
        let done = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned));
        list = list.parts(done.set_checksum_crc32_c(sent.checksum_crc32_c().map(str::to_owned)).build());
    }
    (id, list.build())
}

async fn multipart(s3: &Client) {
    let parts = [noise(1, 5 << 20), noise(2, 5 << 20), noise(3, 7)];
    let (id, list) = begin(s3, "large", &parts).await;
    let known =
        s3.list_parts().bucket("box").key("large").upload_id(&id).max_parts(2).send().await.expect("a list");
    assert_eq!((known.parts().len(), known.is_truncated()), (2, Some(true)));
    let complete = s3.complete_multipart_upload().bucket("box").key("large").upload_id(&id);
    complete
        .checksum_type(ChecksumType::FullObject)
        .multipart_upload(list)
        .send()
        .await
        .expect("a completion");
    assert_eq!(get(s3, "large").await, parts.concat());
    let part = s3.get_object().bucket("box").key("large").part_number(3).send().await.expect("a part");
    assert_eq!((part.parts_count(), part.content_length()), (Some(3), Some(7)));
    let (id, _) = begin(s3, "never", &parts[2..]).await;
    s3.abort_multipart_upload().bucket("box").key("never").upload_id(&id).send().await.expect("an end");
    let gone = s3.list_parts().bucket("box").key("never").upload_id(&id).send().await;
    assert_eq!(code(gone), "NoSuchUpload");
}

async fn versions_and_locks(s3: &Client) {
    s3.create_bucket().bucket("kept").object_lock_enabled_for_bucket(true).send().await.expect("a bucket");
    let first = s3
        .put_object()
        .bucket("kept")
        .key("k")
        .body(ByteStream::from_static(b"1"))
        .send()
        .await
        .expect("a put");
    let second = s3
        .put_object()
        .bucket("kept")
        .key("k")
        .body(ByteStream::from_static(b"2"))
        .send()
        .await
        .expect("a put");
    let id = first.version_id().expect("a version");
    assert_ne!(first.version_id(), second.version_id());
    let until = std::time::SystemTime::now() + Duration::from_secs(3600);
    let retention = ObjectLockRetention::builder()
        .mode(ObjectLockRetentionMode::Compliance)
        .retain_until_date(until.into())
        .build();
    s3.put_object_retention()
        .bucket("kept")
        .key("k")
        .version_id(id)
        .retention(retention)
        .send()
        .await
        .expect("a lock");
    assert_eq!(code(s3.delete_object().bucket("kept").key("k").version_id(id).send().await), "AccessDenied");
    let hold = |status| ObjectLockLegalHold::builder().status(status).build();
    let held =
        s3.put_object_legal_hold().bucket("kept").key("k").legal_hold(hold(ObjectLockLegalHoldStatus::On));
    held.send().await.expect("a hold");
    let second_id = second.version_id().expect("a version");
    assert_eq!(
        code(s3.delete_object().bucket("kept").key("k").version_id(second_id).send().await),
        "AccessDenied"
    );
    let marker = s3.delete_object().bucket("kept").key("k").send().await.expect("a marker");
    assert_eq!(marker.delete_marker(), Some(true));
    let list = s3.list_object_versions().bucket("kept").send().await.expect("a list");
    assert_eq!((list.versions().len(), list.delete_markers().len()), (2, 1));
    let suspended = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
    let suspended =
        s3.put_bucket_versioning().bucket("kept").versioning_configuration(suspended).send().await;
    assert_eq!(code(suspended), "InvalidBucketState");
}

async fn settings(s3: &Client) {
    let tag = Tag::builder().key("k").value("v").build().expect("a tag");
    let tags = Tagging::builder().tag_set(tag).build().expect("tags");
    s3.put_object_tagging().bucket("box").key("copy").tagging(tags).send().await.expect("tags");
    let found = s3.get_object_tagging().bucket("box").key("copy").send().await.expect("tags");
    assert_eq!(found.tag_set().len(), 1);
    let rule = CorsRule::builder().allowed_methods("GET").allowed_origins("*").build().expect("a rule");
    let cors = CorsConfiguration::builder().cors_rules(rule).build().expect("rules");
    s3.put_bucket_cors().bucket("box").cors_configuration(cors).send().await.expect("rules");
    assert_eq!(s3.get_bucket_cors().bucket("box").send().await.expect("rules").cors_rules().len(), 1);
    assert_eq!(code(s3.get_bucket_policy().bucket("box").send().await), "NoSuchBucketPolicy");
    let sealed =
        s3.put_object().bucket("box").key("sealed").server_side_encryption(ServerSideEncryption::Aes256);
    sealed.body(ByteStream::from_static(b"sealed")).send().await.expect("a put");
    let sealed = s3.get_object().bucket("box").key("sealed").send().await.expect("an object");
    assert_eq!(sealed.server_side_encryption(), Some(&ServerSideEncryption::Aes256));
}

async fn presigned(s3: &Client, address: &str) {
    let minute = PresigningConfig::expires_in(Duration::from_secs(60)).expect("a minute");
    let url =
        s3.get_object().bucket("box").key("copy").presigned(minute).await.expect("a URL").uri().to_owned();
    let path = url.split_once(address).expect("this server's").1.to_owned();
    let (address, of) = (address.to_owned(), path.clone());
    let text = tokio::task::spawn_blocking(move || fetch(&address, &of)).await.expect("an answer");
    assert_eq!(text, "first");
}

/// Runs as many as [`RACERS`] at once, each with its number: how many won, and with what the others were refused.
async fn race<F: Future<Output = Result<(), String>> + Send + 'static>(
    run: impl Fn(usize) -> F,
) -> (usize, Vec<String>) {
    let mut tasks = JoinSet::new();
    (0..RACERS).for_each(|number| drop(tasks.spawn(run(number))));
    let outcomes = tasks.join_all().await;
    let lost = outcomes.iter().filter_map(|outcome| outcome.clone().err()).collect();
    (outcomes.iter().filter(|outcome| outcome.is_ok()).count(), lost)
}

fn one_won(what: &str, (won, lost): (usize, Vec<String>)) {
    assert_eq!(won, 1, "{what}: {lost:?}");
    let known = |code: &String| {
        ["PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "NoSuchUpload"]
            .contains(&code.as_str())
    };
    assert!(lost.iter().all(known), "{what}: {lost:?}");
}

async fn races(s3: &Client) {
    let body = |number: usize| ByteStream::from(format!("of {number}").into_bytes());
    let all = |number: usize| (s3.clone(), body(number));
    one_won(
        "creation",
        race(|number| {
            let (s3, body) = all(number);
            async move {
                let put =
                    s3.put_object().bucket("box").key("race").if_none_match("*").body(body).send().await;
                if put.is_ok() { Ok(()) } else { Err(code(put)) }
            }
        })
        .await,
    );
    let tag = || async {
        let head = s3.head_object().bucket("box").key("race").send().await.expect("it is there");
        head.e_tag().expect("a tag").to_owned()
    };
    let now = tag().await;
    one_won(
        "replacement",
        race(|number| {
            // Other bytes than the creation's: whoever wrote the same again would leave the tag as it was for the next.
            let (s3, body, now) = (s3.clone(), body(RACERS + number), now.clone());
            async move {
                let put = s3.put_object().bucket("box").key("race").if_match(now).body(body).send().await;
                if put.is_ok() { Ok(()) } else { Err(code(put)) }
            }
        })
        .await,
    );
    let now = tag().await;
    put(s3, "source", b"of the source").await;
    one_won(
        "a copy over what was read",
        race(|_| {
            let (s3, now) = (s3.clone(), now.clone());
            async move {
                let copy = s3
                    .copy_object()
                    .bucket("box")
                    .key("race")
                    .copy_source("box/source")
                    .if_match(now)
                    .send()
                    .await;
                if copy.is_ok() { Ok(()) } else { Err(code(copy)) }
            }
        })
        .await,
    );
    one_won(
        "a copy to where nothing is",
        race(|_| {
            let s3 = s3.clone();
            async move {
                let copy = s3
                    .copy_object()
                    .bucket("box")
                    .key("new copy")
                    .copy_source("box/source")
                    .if_none_match("*");
                let copy = copy.send().await;
                if copy.is_ok() { Ok(()) } else { Err(code(copy)) }
            }
        })
        .await,
    );
    let mut uploads = Vec::new();
    for _ in 0..RACERS {
        uploads.push(begin(s3, "race of parts", &[noise(9, 10)]).await);
    }
    one_won(
        "a completion",
        race(|number| {
            let (s3, (id, list)) = (s3.clone(), uploads[number].clone());
            async move {
                let done = s3.complete_multipart_upload().bucket("box").key("race of parts").upload_id(id);
                let done = done.multipart_upload(list).if_none_match("*").send().await;
                if done.is_ok() { Ok(()) } else { Err(code(done)) }
            }
        })
        .await,
    );
    // A deletion that found nothing did what was asked: of those who name what is there, one does it.
    put(s3, "race", b"the last").await;
    let now = tag().await;
    let (_, lost) = race(|number| {
        let ((s3, body), now) = (all(number), now.clone());
        async move {
            if number % 2 == 0 {
                let gone = s3.delete_object().bucket("box").key("race").if_match(now).send().await;
                if gone.is_ok() { Ok(()) } else { Err(code(gone)) }
            } else {
                let put = s3.put_object().bucket("box").key("race").if_match(now).body(body).send().await;
                if put.is_ok() { Ok(()) } else { Err(code(put)) }
            }
        }
    })
    .await;
    assert!(lost.len() >= RACERS / 2 - 1, "{lost:?}");
    let left = s3.get_object().bucket("box").key("race").send().await;
    let writers_lost =
        lost.iter().filter(|code| ["PreconditionFailed", "NoSuchKey"].contains(&code.as_str())).count();
    assert_eq!(writers_lost, lost.len(), "{lost:?}");
    match left {
        // Somebody wrote first, and nobody could delete it.
        Ok(found) => assert!(found.body.collect().await.expect("bytes").to_vec().starts_with(b"of ")),
        Err(_) => assert!(lost.len() >= RACERS / 2, "every writer came too late: {lost:?}"),
    }
}

async fn all(address: &str, access: &str, secret: &str) {
    let s3 = client(address, access, secret);
    s3.create_bucket().bucket("box").send().await.expect("a bucket");
    objects(&s3).await;
    checksums(&s3).await;
    multipart(&s3).await;
    settings(&s3).await;
    presigned(&s3, address).await;
    versions_and_locks(&s3).await;
    races(&s3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sdk_for_rust_works_with_one_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    all(&server.s3, ACCESS_KEY, SECRET_KEY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sdk_for_rust_works_with_a_cluster() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(&dir.path().join("c"), &["--gateways", "1"]);
    let (access, secret) = cluster.keys();
    all(&cluster.gateways[0], access, secret).await;
}

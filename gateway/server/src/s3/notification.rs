//! Whom a bucket tells of what happens in it.

use super::{
    S3Door,
    access::{Scene, scene},
    documents::{malformed, set, to_xml},
    settings::from_xml,
};
use crate::{identity::Who, notify::Webhook};
use holdfast_meta_raft_machine::{
    ask::{HeaderNow, IdentitiesNow, UsageOf},
    command::Command,
    records::BucketConfig,
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        GetBucketNotificationConfigurationInput, GetBucketNotificationConfigurationOutput,
        NotificationConfiguration, NotificationConfigurationFilter, PutBucketNotificationConfigurationInput,
        PutBucketNotificationConfigurationOutput,
    },
    s3_error,
};
use std::collections::BTreeSet;

const DOCUMENT: &str = "notification";

/// Under this name a version says how it was made, where that is neither by a PUT nor by parts.
pub const MADE: &str = "made";

/// Under these names is kept how far a subscription is in the journal, and from which version on versions are new to it.
pub fn cursors(id: &str) -> (String, String) {
    let id = blake3::hash(id.as_bytes()).to_hex();
    (format!("events/{id}"), format!("fresh/{id}"))
}

/// Configurations that a bucket may have, as in S3.
const CONFIGURATIONS_MAX: usize = 100;

/// Somebody who wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    /// An operator's webhook by its name, or the address of one.
    pub target: String,
    /// Without `s3:`; the last part may be `*`.
    pub events: Vec<String>,
    pub prefix: String,
    pub suffix: String,
}

impl Subscription {
    /// Whether it may be about an event of which only is known that something was made.
    pub fn wants_created(&self, key: &str) -> bool {
        let created = |wanted: &String| wanted.starts_with("ObjectCreated");
        key.starts_with(&self.prefix) && key.ends_with(&self.suffix) && self.events.iter().any(created)
    }

    /// Whether it is about an event, as `ObjectCreated:Put`, of a key.
    pub fn wants(&self, event: &str, key: &str) -> bool {
        let named = |wanted: &String| match wanted.strip_suffix('*') {
            Some(start) => event.starts_with(start),
            None => event == wanted,
        };
        key.starts_with(&self.prefix) && key.ends_with(&self.suffix) && self.events.iter().any(named)
    }
}

/// The name of a webhook in an ARN of any service: the last part that is a name.
fn target_of(arn: &str) -> &str {
    if arn.starts_with("http://") || arn.starts_with("https://") {
        return arn;
    }
    let mut parts = arn.rsplit(':').filter(|part| !part.is_empty() && *part != "webhook");
    parts.next().unwrap_or(arn)
}

fn filters(filter: Option<&NotificationConfigurationFilter>) -> Option<(String, String)> {
    let rules = filter.and_then(|filter| filter.key.as_ref()).and_then(|key| key.filter_rules.as_deref());
    let (mut prefix, mut suffix) = (None, None);
    for rule in rules.unwrap_or_default() {
        let name = rule.name.as_ref().map(|name| name.as_str().to_ascii_lowercase());
        let place = match name.as_deref() {
            Some("prefix") => &mut prefix,
            Some("suffix") => &mut suffix,
            _ => return None,
        };
        if place.replace(rule.value.clone().unwrap_or_default()).is_some() {
            return None;
        }
    }
    Some((prefix.unwrap_or_default(), suffix.unwrap_or_default()))
}

fn read(config: &NotificationConfiguration) -> Option<Vec<Subscription>> {
    let mut found = Vec::new();
    let mut add = |id: &Option<String>,
                   arn: &str,
                   events: Vec<&str>,
                   filter: &Option<NotificationConfigurationFilter>| {
        let (prefix, suffix) = filters(filter.as_ref())?;
        let events: Option<Vec<String>> =
            events.into_iter().map(|event| event.strip_prefix("s3:").map(str::to_owned)).collect();
        let (target, id) = (target_of(arn).to_owned(), id.clone().unwrap_or_default());
        found.push(Subscription { id, target, events: events?, prefix, suffix });
        Some(())
    };
    for wanted in config.queue_configurations.iter().flatten() {
        let events = wanted.events.iter().map(|event| event.as_ref()).collect();
        add(&wanted.id, &wanted.queue_arn, events, &wanted.filter)?;
    }
    for wanted in config.topic_configurations.iter().flatten() {
        let events = wanted.events.iter().map(|event| event.as_ref()).collect();
        add(&wanted.id, &wanted.topic_arn, events, &wanted.filter)?;
    }
    for wanted in config.lambda_function_configurations.iter().flatten() {
        let events = wanted.events.iter().map(|event| event.as_ref()).collect();
        add(&wanted.id, &wanted.lambda_function_arn, events, &wanted.filter)?;
    }
    Some(found)
}

/// Whom a bucket tells.
pub fn subscriptions(config: &BucketConfig) -> Vec<Subscription> {
    let kept = config.documents.get(DOCUMENT).and_then(|text| from_xml::<NotificationConfiguration>(text));
    kept.as_ref().and_then(read).unwrap_or_default()
}

/// # Errors
/// Where somebody is to be told of what there is not, or cannot be told.
async fn check(door: &S3Door, scene: &Scene, wanted: &[Subscription], targets: bool) -> S3Result<()> {
    const KINDS: [&str; 2] = ["ObjectCreated:", "ObjectRemoved:"];
    const NAMES: [&str; 6] = ["*", "Put", "Post", "Copy", "CompleteMultipartUpload", "Delete"];
    let known = |event: &String| {
        let part = KINDS.iter().find_map(|kind| event.strip_prefix(kind));
        part.is_some_and(|part| NAMES.contains(&part) || part == "DeleteMarkerCreated")
    };
    if wanted.len() > CONFIGURATIONS_MAX {
        return Err(malformed());
    }
    if let Some(event) = wanted.iter().flat_map(|wanted| &wanted.events).find(|event| !known(event)) {
        return Err(s3_error!(InvalidArgument, "The event 's3:{event}' is not supported for notifications"));
    }
    if wanted.iter().any(|wanted| wanted.events.is_empty()) {
        return Err(malformed());
    }
    let ids: BTreeSet<&String> = wanted.iter().map(|wanted| &wanted.id).collect();
    if ids.len() != wanted.len() || ids.iter().any(|id| id.len() > 255) {
        return Err(s3_error!(
            InvalidArgument,
            "Same ID used for multiple configurations. IDs must be unique"
        ));
    }
    // Addresses of their own choice are for whoever's host this is.
    let is_owner = matches!(scene.who, Who::Owner);
    let is_address = |wanted: &Subscription| wanted.target.contains("://");
    let (_, records) = door.ask(IdentitiesNow {}).await?;
    let by_name = |name: &str| records.iter().any(|(key, _)| *key == Webhook::path(name));
    let known = |wanted: &Subscription| match is_address(wanted) {
        true => is_owner,
        false => !targets || by_name(&wanted.target),
    };
    match wanted.iter().all(known) {
        true => Ok(()),
        false => {
            Err(s3_error!(InvalidArgument, "Unable to validate the following destination configurations"))
        }
    }
}

pub fn get_bucket_notification_configuration(
    _door: &S3Door,
    request: S3Request<GetBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    let scene = scene(&request)?;
    let kept = scene.bucket()?.config.documents.get(DOCUMENT);
    let config = kept.and_then(|text| from_xml::<NotificationConfiguration>(text)).unwrap_or_default();
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
        event_bridge_configuration: config.event_bridge_configuration,
        lambda_function_configurations: config.lambda_function_configurations,
        queue_configurations: config.queue_configurations,
        topic_configurations: config.topic_configurations,
    }))
}

pub async fn put_bucket_notification_configuration(
    door: &S3Door,
    request: S3Request<PutBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let mut config = request.input.notification_configuration;
    if config.event_bridge_configuration.is_some() {
        return Err(s3_error!(NotImplemented, "There is no event bridge: name a webhook"));
    }
    let ids = config.queue_configurations.iter_mut().flatten().map(|wanted| &mut wanted.id);
    let ids = ids.chain(config.topic_configurations.iter_mut().flatten().map(|wanted| &mut wanted.id));
    let ids =
        ids.chain(config.lambda_function_configurations.iter_mut().flatten().map(|wanted| &mut wanted.id));
    for id in ids.filter(|id| id.is_none()) {
        *id = Some(format!("{:032x}", rand::random::<u128>()));
    }
    let wanted = read(&config).ok_or_else(malformed)?;
    check(door, &scene, &wanted, request.input.skip_destination_validation != Some(true)).await?;
    let id = bucket.bucket.id;
    if wanted.is_empty() {
        set(door, bucket, DOCUMENT, None).await?;
        return Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()));
    }
    // What happened before is nobody's news.
    let known = subscriptions(&bucket.config);
    let usage = door.ask(UsageOf { bucket: id }).await?.unwrap_or_default();
    let next_version = door.ask(HeaderNow {}).await?.map_or(0, |header| header.next_version);
    for new in wanted.iter().filter(|wanted| !known.iter().any(|known| known.id == wanted.id)) {
        let (cursor, fresh) = cursors(&new.id);
        for (name, position) in [(cursor, usage.journal_next), (fresh, next_version)] {
            door.run(Command::NoteCursor { bucket: id, name, position }).await?;
        }
    }
    set(door, bucket, DOCUMENT, Some(to_xml(&config)?)).await?;
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_about_its_events_and_keys() {
        let events = vec!["ObjectCreated:*".to_owned(), "ObjectRemoved:Delete".to_owned()];
        let (prefix, suffix) = ("in/".to_owned(), ".jpg".to_owned());
        let wanted = Subscription { id: String::new(), target: String::new(), events, prefix, suffix };
        assert!(wanted.wants("ObjectCreated:Copy", "in/a.jpg"));
        assert!(wanted.wants("ObjectRemoved:Delete", "in/a.jpg"));
        assert!(!wanted.wants("ObjectRemoved:DeleteMarkerCreated", "in/a.jpg"));
        assert!(!wanted.wants("ObjectCreated:Put", "out/a.jpg"));
        assert!(!wanted.wants("ObjectCreated:Put", "in/a.png"));
    }

    #[test]
    fn webhooks_are_named_in_arns_of_any_kind() {
        for arn in ["arn:aws:sqs:us-east-1:000000000000:hook", "arn:minio:sqs::hook:webhook", "hook"] {
            assert_eq!(target_of(arn), "hook", "{arn}");
        }
        assert_eq!(target_of("http://127.0.0.1:8080/x"), "http://127.0.0.1:8080/x");
    }
}

//! What a bucket's website is set to.

use super::{
    S3Door,
    access::scene,
    documents::{kept, malformed, set, to_xml},
    error,
    settings::from_xml,
};
use hyper::StatusCode;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        GetBucketWebsiteInput, GetBucketWebsiteOutput, PutBucketWebsiteInput, PutBucketWebsiteOutput,
        RoutingRule, WebsiteConfiguration,
    },
    s3_error,
};

const DOCUMENT: &str = "website";

/// Rules that a website may have, as in S3.
const RULES_MAX: usize = 50;

fn check(website: &WebsiteConfiguration) -> S3Result<()> {
    let invalid = |text: &str| Err(s3_error!(InvalidArgument, "{text}"));
    let alone = website.index_document.is_none()
        && website.error_document.is_none()
        && website.routing_rules.is_none();
    match (&website.redirect_all_requests_to, &website.index_document) {
        (Some(_), _) if !alone => {
            return invalid(
                "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.",
            );
        }
        (None, None) => {
            return invalid(
                "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty",
            );
        }
        (None, Some(index)) if index.suffix.is_empty() || index.suffix.contains('/') => {
            return invalid("The IndexDocument Suffix is not well formed");
        }
        (Some(_), _) | (None, Some(_)) => {}
    }
    if website.error_document.as_ref().is_some_and(|document| document.key.is_empty()) {
        return invalid("The ErrorDocument Key is not well formed");
    }
    let rules = website.routing_rules.as_deref().unwrap_or_default();
    if rules.len() > RULES_MAX {
        return invalid("The number of routing rules must not exceed the allowed limit of 50 rules.");
    }
    rules.iter().try_for_each(check_rule)
}

fn check_rule(rule: &RoutingRule) -> S3Result<()> {
    let redirect = &rule.redirect;
    if redirect.replace_key_with.is_some() && redirect.replace_key_prefix_with.is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "You can only define ReplaceKeyPrefix or ReplaceKey but not both."
        ));
    }
    let known = |protocol: &str| ["http", "https"].contains(&protocol);
    if redirect.protocol.as_ref().is_some_and(|protocol| !known(protocol.as_str())) {
        return Err(s3_error!(InvalidRequest, "Invalid protocol, protocol can be http or https."));
    }
    let code = redirect.http_redirect_code.as_deref();
    if code.is_some_and(|code| !matches!(code.as_bytes(), [b'3', b'0', b'1'..=b'9'])) {
        return Err(s3_error!(
            InvalidRequest,
            "The provided HTTP redirect code is not valid. Valid codes are 3XX except 300."
        ));
    }
    Ok(())
}

pub fn get_bucket_website(
    _door: &S3Door,
    request: S3Request<GetBucketWebsiteInput>,
) -> S3Result<S3Response<GetBucketWebsiteOutput>> {
    let scene = scene(&request)?;
    let absent = || {
        error::custom(
            "NoSuchWebsiteConfiguration",
            StatusCode::NOT_FOUND,
            "The specified bucket does not have a website configuration",
        )
    };
    let text = kept(scene.bucket()?, DOCUMENT, absent)?;
    let website = from_xml::<WebsiteConfiguration>(text).ok_or_else(absent)?;
    Ok(S3Response::new(GetBucketWebsiteOutput {
        error_document: website.error_document,
        index_document: website.index_document,
        redirect_all_requests_to: website.redirect_all_requests_to,
        routing_rules: website.routing_rules,
    }))
}

pub async fn put_bucket_website(
    door: &S3Door,
    request: S3Request<PutBucketWebsiteInput>,
) -> S3Result<S3Response<PutBucketWebsiteOutput>> {
    let scene = scene(&request)?;
    let website = &request.input.website_configuration;
    check(website)?;
    let text = to_xml(website)?;
    from_xml::<WebsiteConfiguration>(&text).ok_or_else(malformed)?;
    set(door, scene.bucket()?, DOCUMENT, Some(text)).await?;
    Ok(S3Response::new(PutBucketWebsiteOutput::default()))
}

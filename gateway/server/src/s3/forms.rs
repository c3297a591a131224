//! Uploads by browsers' forms. s3s checks their signature and their policy's conditions; whoever signed it must be allowed
//! to write the key.

use super::{access::Scene, documents::malformed, settings::from_xml};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{CONTENT_DISPOSITION, HeaderValue},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Result,
    dto::{PutObjectInput, Tagging},
    s3_error,
};
use std::{collections::BTreeSet, sync::Arc};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The largest file in a form, in bytes: forms are held in memory.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// The largest form, its file and its fields together.
pub const FORM_BYTES_MAX: usize = FILE_BYTES_MAX as usize + (1 << 20);

/// Fields of a form that s3s does not read. Its policy's conditions s3s holds against all fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormFields {
    acl: Option<String>,
    tagging: Option<String>,
    /// Of temporary credentials.
    pub token: Option<String>,
    /// What the file is called where it comes from.
    filename: Option<String>,
    /// Its key has a place for that.
    key_is_open: bool,
    /// It says something twice, or in a way that can be read in two ways.
    pub malformed: bool,
    /// Its policy ends at no moment that can be read.
    pub misdated: bool,
    /// It says what it may do, and by whose leave it does not say.
    pub unsigned: bool,
}

impl FormFields {
    /// Reads a form's fields up to its file; what is malformed is for s3s to refuse.
    async fn read(kind: &str, body: Bytes) -> Self {
        let mut fields = Self::default();
        let Ok(boundary) = multer::parse_boundary(kind) else { return fields };
        let pieces = futures::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(body)));
        let mut form = multer::Multipart::new(pieces, boundary);
        let mut names = BTreeSet::new();
        while let Ok(Some(field)) = form.next_field().await {
            // As s3s reads them, which judges by them: a name counts in any case, and once.
            let name = field.name().unwrap_or_default().to_ascii_lowercase();
            let headers = field.headers().get_all(CONTENT_DISPOSITION).iter().count();
            fields.malformed |= headers != 1 || !names.insert(name.clone());
            match name.as_str() {
                "key" => fields.key_is_open = field.text().await.is_ok_and(|key| key.contains("${filename}")),
                "acl" => fields.acl = field.text().await.ok(),
                "tagging" => fields.tagging = field.text().await.ok(),
                "policy" => fields.misdated = !field.text().await.is_ok_and(|policy| is_dated(&policy)),
                "x-amz-security-token" => fields.token = field.text().await.ok(),
                "file" => {
                    fields.filename = field.file_name().map(str::to_owned);
                    break;
                }
                _ => {}
            }
        }
        let has = |name: &str| names.contains(name);
        fields.unsigned = has("policy") && !has("signature") && !has("x-amz-signature");
        fields
    }

    /// The fields that count, and the form that says them.
    pub async fn resolve(kind: &str, body: Bytes) -> (Self, Bytes) {
        let fields = Self::read(kind, body.clone()).await;
        let body = fields.named(body);
        let mut named = Self::read(kind, body.clone()).await;
        // The name went into the key, and nowhere else.
        named.malformed |= Self { key_is_open: named.key_is_open, ..fields } != named || named.key_is_open;
        (named, body)
    }

    /// The form with the file's name where its key says `${filename}`: conditions are about the key that is meant.
    fn named(&self, body: Bytes) -> Bytes {
        const PLACE: &[u8] = b"${filename}";
        if !self.key_is_open {
            return body;
        }
        let find = |what: &[u8], from: usize| {
            body[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
        };
        let place = find(b"name=\"key\"", 0).and_then(|at| find(PLACE, at));
        let Some(at) = place else { return body };
        // Some browsers send a whole path.
        let name = self.filename.as_deref().unwrap_or_default();
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        [&body[..at], name.as_bytes(), &body[at + PLACE.len()..]].concat().into()
    }
}

/// Whether a form's policy says when it ends, as S3 demands: `2007-12-01T12:00:00.000Z`.
fn is_dated(policy: &str) -> bool {
    let text: String = policy.split_whitespace().collect();
    let Ok(json) = BASE64_STANDARD.decode(text) else { return false };
    let Ok(policy) = serde_json::from_slice::<serde_json::Value>(&json) else { return false };
    let ends = policy.get("expiration").and_then(serde_json::Value::as_str);
    ends.is_some_and(|ends| ends.contains('T') && OffsetDateTime::parse(ends, &Rfc3339).is_ok())
}

/// Tags as forms have them, as headers have them.
fn tags_as_header(xml: &str) -> S3Result<String> {
    let tagging = from_xml::<Tagging>(xml).ok_or_else(malformed)?;
    let encode = |text: &Option<String>| {
        utf8_percent_encode(text.as_deref().unwrap_or_default(), NON_ALPHANUMERIC).to_string()
    };
    let pairs = tagging.tag_set.iter().map(|tag| format!("{}={}", encode(&tag.key), encode(&tag.value)));
    Ok(pairs.collect::<Vec<_>>().join("&"))
}

/// What a form says in its fields, where a request says it in headers.
fn headers_of(fields: &FormFields, input: &PutObjectInput) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let tagging = fields.tagging.as_deref().map(tags_as_header).transpose()?;
    let said = [
        ("x-amz-acl", fields.acl.as_deref()),
        ("x-amz-tagging", tagging.as_deref()),
        ("x-amz-storage-class", input.storage_class.as_ref().map(|class| class.as_str())),
        ("x-amz-website-redirect-location", input.website_redirect_location.as_deref()),
        ("x-amz-server-side-encryption", input.server_side_encryption.as_ref().map(|kind| kind.as_str())),
        ("x-amz-server-side-encryption-aws-kms-key-id", input.ssekms_key_id.as_deref()),
        ("x-amz-server-side-encryption-context", input.ssekms_encryption_context.as_deref()),
        ("x-amz-server-side-encryption-customer-algorithm", input.sse_customer_algorithm.as_deref()),
        ("x-amz-server-side-encryption-customer-key", input.sse_customer_key.as_deref()),
        ("x-amz-server-side-encryption-customer-key-md5", input.sse_customer_key_md5.as_deref()),
    ];
    for (name, value) in said {
        let Some(value) = value else { continue };
        let value = HeaderValue::from_str(value);
        headers.insert(name, value.map_err(|_| s3_error!(InvalidArgument, "The field {name} is malformed"))?);
    }
    if input.object_lock_mode.is_some()
        || input.object_lock_retain_until_date.is_some()
        || input.object_lock_legal_hold_status.is_some()
    {
        return Err(s3_error!(NotImplemented, "Forms cannot lock objects"));
    }
    Ok(headers)
}

/// The headers by which a form's upload is carried out, where its sender may write the key.
///
/// # Errors
/// Where it may not, or the form is malformed.
pub fn admit(
    scene: &Scene,
    fields: &FormFields,
    input: &PutObjectInput,
) -> S3Result<(Arc<Scene>, HeaderMap)> {
    // Headers of the form's request were signed by nobody, and are not what is judged.
    let headers = headers_of(fields, input)?;
    let scene = scene.with_headers(headers.clone());
    match scene.may_write(&input.key) {
        true => Ok((Arc::new(scene), headers)),
        false => Err(s3_error!(AccessDenied, "Access Denied")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{documents::to_xml, extras::tag_set};

    #[test]
    fn tags_survive_the_way_into_a_header() {
        let tags = vec![("a b".to_owned(), "1&2=3".to_owned()), ("ü".to_owned(), String::new())];
        let xml = to_xml(&Tagging { tag_set: tag_set(&tags) }).expect("XML");
        assert_eq!(tags_as_header(&xml).expect("tags"), "a%20b=1%262%3D3&%C3%BC=");
        assert!(tags_as_header("<Tagging").is_err());
    }
}

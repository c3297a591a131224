//! Answers of the query interfaces, as XML.

use hyper::StatusCode;
use quick_xml::escape::escape;

/// XML in the making.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Xml(String);

impl Xml {
    /// An element with a text.
    pub fn text(&mut self, name: &str, text: impl AsRef<str>) -> &mut Self {
        self.0.push_str(&format!("<{name}>{}</{name}>", escape(text.as_ref())));
        self
    }

    /// An element with a text, where there is one.
    pub fn maybe(&mut self, name: &str, text: Option<impl AsRef<str>>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// An element with others in it.
    pub fn node(&mut self, name: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push_str(&format!("<{name}>"));
        fill(self);
        self.0.push_str(&format!("</{name}>"));
        self
    }

    /// An element with a `member` for each of `items`.
    pub fn members<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.node(name, |list| {
            for item in items {
                list.node("member", |member| fill(member, item));
            }
        })
    }

    /// A list that has no more pages.
    pub fn all(&mut self) -> &mut Self {
        self.text("IsTruncated", "false")
    }

    /// The text of the element itself.
    pub fn content(&mut self, text: &str) -> &mut Self {
        self.0.push_str(&escape(text));
        self
    }

    /// The whole answer to an action.
    pub fn finish(&self, namespace: &str, action: &str, request_id: &str) -> String {
        let body = &self.0;
        // Actions without a result have no element for it, but for one.
        let result = if body.is_empty() && action != "UpdateRole" {
            String::new()
        } else {
            format!("<{action}Result>{body}</{action}Result>")
        };
        format!(
            "<{action}Response xmlns=\"{namespace}\">{result}<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
        )
    }
}

/// Why an action was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NoSuchEntity", message)
    }

    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "EntityAlreadyExists", message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "DeleteConflict", message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ValidationError", message)
    }

    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "LimitExceeded", message)
    }

    pub fn malformed_policy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MalformedPolicyDocument", message)
    }

    /// The whole answer.
    pub fn finish(&self, namespace: &str, request_id: &str) -> String {
        let kind = if self.status.is_server_error() { "Receiver" } else { "Sender" };
        format!(
            "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
            self.code,
            escape(self.message.as_str())
        )
    }
}

impl From<crate::identity::change::IdentityError> for Refusal {
    fn from(error: crate::identity::change::IdentityError) -> Self {
        use crate::identity::change::IdentityError;
        let message = error.to_string();
        match error {
            IdentityError::Exists(_) => Self::exists(message),
            IdentityError::Unknown(_) => Self::missing(message),
            IdentityError::Invalid(_) => Self::invalid(message),
            IdentityError::Busy | IdentityError::Meta(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
            }
        }
    }
}

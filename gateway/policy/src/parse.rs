//! Policies as JSON.

use crate::{
    Effect, Listed, Policy, Principal, Statement,
    condition::{Operator, Order, Quantifier, Test, Wanted},
    pattern::{Pattern, like},
};
use serde_json::{Map, Value};
use thiserror::Error;

/// The most bytes that a policy of a bucket may have, as in S3.
const BYTES_MAX: usize = 20 << 10;

const STATEMENTS_MAX: usize = 512;

/// Why a policy is refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PolicyError {
    #[error("the policy is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("This policy contains invalid Json")]
    NotJson,
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(what: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::Invalid(what.into()))
}

/// What a policy belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// A resource, in which every statement must lie.
    Resource(&'a str),
    Identity,
    /// A role: who may assume it.
    Trust,
}

pub fn policy(text: &str, of: Of<'_>) -> Result<Policy, PolicyError> {
    if text.len() > BYTES_MAX {
        return Err(PolicyError::TooLong);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| PolicyError::NotJson)?;
    let Value::Object(root) = value else { return Err(PolicyError::NotJson) };
    if let Some(unknown) = root.keys().find(|key| !["Version", "Id", "Statement"].contains(&key.as_str())) {
        return invalid(format!("Unknown field {unknown}"));
    }
    match root.get("Version") {
        None => {}
        Some(Value::String(version)) if version == "2012-10-17" || version == "2008-10-17" => {}
        Some(_) => return invalid("The policy must contain a valid version string"),
    }
    let statements: Vec<&Value> = match root.get("Statement") {
        Some(Value::Array(statements)) => statements.iter().collect(),
        Some(one @ Value::Object(_)) => vec![one],
        _ => return invalid("Could not parse the policy: Statement is empty!"),
    };
    if statements.is_empty() || statements.len() > STATEMENTS_MAX {
        return invalid("Could not parse the policy: Statement is empty!");
    }
    let parsed: Result<_, _> = statements.into_iter().map(|value| statement(value, of)).collect();
    Ok(Policy { statements: parsed? })
}

fn statement(value: &Value, of: Of<'_>) -> Result<Statement, PolicyError> {
    const FIELDS: [&str; 9] = [
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    ];
    let Value::Object(map) = value else { return invalid("A statement is not an object") };
    if let Some(unknown) = map.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return invalid(format!("Unknown field {unknown}"));
    }
    let effect = match map.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => return invalid("Invalid effect"),
    };
    let principals = match (either(map, "Principal", "NotPrincipal")?, of) {
        // Everybody but some: nobody means that.
        (Some((_, true)), Of::Resource(_) | Of::Trust) if effect == Effect::Allow => {
            return invalid("Allow with NotPrincipal is not allowed.");
        }
        (Some((value, negated)), Of::Resource(_) | Of::Trust) => {
            Some(Listed { negated, items: principals(value)? })
        }
        (None, Of::Identity) => None,
        (None, Of::Resource(_) | Of::Trust) => return invalid("Missing required field Principal"),
        (Some(_), Of::Identity) => return invalid("Policy document should not specify a principal."),
    };
    let Some((value, negated)) = either(map, "Action", "NotAction")? else {
        return invalid("Missing required field Action");
    };
    let actions = Listed { negated, items: texts(value)?.into_iter().map(Pattern::new).collect() };
    if actions.items.iter().any(|action| action.text() != "*" && !action.text().contains(':')) {
        return invalid("Policy has invalid action");
    }
    let resources = match (either(map, "Resource", "NotResource")?, of) {
        (None, Of::Trust) => Listed { negated: true, items: Vec::new() },
        (Some(_), Of::Trust) => return invalid("Has prohibited field Resource"),
        (None, Of::Resource(_) | Of::Identity) => return invalid("Missing required field Resource"),
        (Some((value, negated)), Of::Resource(_) | Of::Identity) => {
            Listed { negated, items: texts(value)?.into_iter().map(Pattern::new).collect() }
        }
    };
    if let Of::Resource(own) = of {
        // A wildcard may stand for more than the resource: it counts for what is in it.
        let inside = |pattern: &Pattern| {
            let container = pattern.text().split('/').next().unwrap_or_default();
            like(container.as_bytes(), own.as_bytes(), u8::eq)
        };
        if !resources.items.iter().all(inside) {
            return invalid("Policy has invalid resource");
        }
    }
    if actions.items.iter().chain(&resources.items).any(Pattern::is_malformed) {
        return invalid("A policy variable is not closed");
    }
    let conditions = match map.get("Condition") {
        None => Vec::new(),
        Some(Value::Object(operators)) => conditions(operators)?,
        Some(_) => return invalid("Conditions must be an object"),
    };
    Ok(Statement { effect, principals, actions, resources, conditions })
}

/// The one of two fields that is there, and whether it is the second.
fn either<'a>(
    map: &'a Map<String, Value>,
    plain: &str,
    negated: &str,
) -> Result<Option<(&'a Value, bool)>, PolicyError> {
    match (map.get(plain), map.get(negated)) {
        (Some(_), Some(_)) => invalid(format!("{plain} and {negated} exclude each other")),
        (Some(value), None) => Ok(Some((value, false))),
        (None, Some(value)) => Ok(Some((value, true))),
        (None, None) => Ok(None),
    }
}

/// One text or a list of texts.
fn texts(value: &Value) -> Result<Vec<String>, PolicyError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => invalid("A text was expected"),
    };
    match value {
        Value::Array(items) if items.is_empty() => invalid("A list is empty"),
        Value::Array(items) => items.iter().map(text).collect(),
        one @ Value::Null
        | one @ Value::Bool(_)
        | one @ Value::Number(_)
        | one @ Value::String(_)
        | one @ Value::Object(_) => Ok(vec![text(one)?]),
    }
}

fn principals(value: &Value) -> Result<Vec<Principal>, PolicyError> {
    let Value::Object(kinds) = value else {
        return match value.as_str() {
            Some("*") => Ok(vec![Principal::Anyone]),
            _ => invalid("Invalid principal in policy"),
        };
    };
    let mut all = Vec::new();
    for (kind, value) in kinds {
        for text in texts(value)? {
            all.push(principal(kind, text)?);
        }
    }
    if all.is_empty() { invalid("Invalid principal in policy") } else { Ok(all) }
}

fn principal(kind: &str, text: String) -> Result<Principal, PolicyError> {
    let account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    Ok(match kind {
        "AWS" if text == "*" => Principal::Anyone,
        "AWS" if account(&text) => Principal::Account(text),
        "AWS" => match text.strip_prefix("arn:aws:iam::").and_then(|rest| rest.strip_suffix(":root")) {
            Some(number) if account(number) => Principal::Account(number.to_owned()),
            _ if text.starts_with("arn:aws:iam::") || text.starts_with("arn:aws:sts::") => {
                Principal::Arn(text)
            }
            _ => return invalid("Invalid principal in policy"),
        },
        "CanonicalUser" => Principal::Canonical(text),
        "Federated" => Principal::Federated(text),
        "Service" => Principal::Nobody,
        _ => return invalid("Invalid principal in policy"),
    })
}

fn conditions(operators: &Map<String, Value>) -> Result<Vec<Test>, PolicyError> {
    let mut tests = Vec::new();
    for (name, keys) in operators {
        let Value::Object(keys) = keys else { return invalid("Conditions must be objects") };
        for (key, values) in keys {
            tests.push(test(name, key, values)?);
        }
    }
    Ok(tests)
}

fn test(name: &str, key: &str, values: &Value) -> Result<Test, PolicyError> {
    let (quantifier, rest) = match name.split_once(':') {
        Some(("ForAllValues", rest)) => (Quantifier::ForAllValues, rest),
        Some(("ForAnyValue", rest)) => (Quantifier::ForAnyValue, rest),
        Some(_) => return invalid(format!("Invalid Condition type : {name}")),
        None => (Quantifier::One, name),
    };
    let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |rest| (rest, true));
    let (operator, negated) = match rest {
        "StringEquals" => (Operator::StringEquals, false),
        "StringNotEquals" => (Operator::StringEquals, true),
        "StringEqualsIgnoreCase" => (Operator::StringEqualsIgnoreCase, false),
        "StringNotEqualsIgnoreCase" => (Operator::StringEqualsIgnoreCase, true),
        "StringLike" => (Operator::StringLike, false),
        "StringNotLike" => (Operator::StringLike, true),
        "ArnEquals" | "ArnLike" => (Operator::ArnLike, false),
        "ArnNotEquals" | "ArnNotLike" => (Operator::ArnLike, true),
        "NumericEquals" => (Operator::Numeric(Order::Equals), false),
        "NumericNotEquals" => (Operator::Numeric(Order::Equals), true),
        "NumericLessThan" => (Operator::Numeric(Order::Less), false),
        "NumericLessThanEquals" => (Operator::Numeric(Order::LessOrEqual), false),
        "NumericGreaterThan" => (Operator::Numeric(Order::Greater), false),
        "NumericGreaterThanEquals" => (Operator::Numeric(Order::GreaterOrEqual), false),
        "DateEquals" => (Operator::Date(Order::Equals), false),
        "DateNotEquals" => (Operator::Date(Order::Equals), true),
        "DateLessThan" => (Operator::Date(Order::Less), false),
        "DateLessThanEquals" => (Operator::Date(Order::LessOrEqual), false),
        "DateGreaterThan" => (Operator::Date(Order::Greater), false),
        "DateGreaterThanEquals" => (Operator::Date(Order::GreaterOrEqual), false),
        "Bool" => (Operator::Bool, false),
        "BinaryEquals" => (Operator::Binary, false),
        "IpAddress" => (Operator::IpAddress, false),
        "NotIpAddress" => (Operator::IpAddress, true),
        "Null" if !if_exists => (Operator::Null, false),
        _ => return invalid(format!("Invalid Condition type : {name}")),
    };
    let key = key.to_ascii_lowercase();
    if !key.contains(':') {
        return invalid(format!("Policy has an invalid condition key: {key}"));
    }
    let wanted: Option<Vec<Wanted>> =
        texts(values)?.iter().map(|text| Wanted::read(operator, text)).collect();
    let open = |wanted: &Wanted| matches!(wanted, Wanted::Text(pattern) if pattern.is_malformed());
    match wanted.filter(|wanted| !wanted.iter().any(open)) {
        Some(wanted) => Ok(Test { operator, negated, if_exists, quantifier, key, wanted }),
        None => invalid(format!("Invalid value in condition {name} of {key}")),
    }
}

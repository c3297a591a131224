//! Conditions of statements.

use crate::{Request, pattern::Pattern};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::net::{IpAddr, Ipv6Addr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    StringEquals,
    StringEqualsIgnoreCase,
    StringLike,
    ArnLike,
    Numeric(Order),
    Date(Order),
    Bool,
    Binary,
    IpAddress,
    /// The key is not there.
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Equals,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds<T: PartialOrd>(self, value: T, wanted: T) -> bool {
        match self {
            Self::Equals => value == wanted,
            Self::Less => value < wanted,
            Self::LessOrEqual => value <= wanted,
            Self::Greater => value > wanted,
            Self::GreaterOrEqual => value >= wanted,
        }
    }
}

/// How many of a request's values must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantifier {
    /// The key has one value.
    One,
    ForAllValues,
    ForAnyValue,
}

/// A value that a condition names, as its operator reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    Text(Pattern),
    Number(f64),
    /// Nanoseconds since 1970.
    Moment(i128),
    Flag(bool),
    Bytes(Vec<u8>),
    Network(IpAddr, u8),
}

/// One operator, one key, and the values of which one must match.
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    pub operator: Operator,
    pub negated: bool,
    pub if_exists: bool,
    pub quantifier: Quantifier,
    /// In lower case.
    pub key: String,
    pub wanted: Vec<Wanted>,
}

impl Wanted {
    /// What an operator makes of a text; `None` where it cannot be one of its values.
    pub fn read(operator: Operator, text: &str) -> Option<Self> {
        Some(match operator {
            Operator::StringEquals
            | Operator::StringEqualsIgnoreCase
            | Operator::StringLike
            | Operator::ArnLike => Self::Text(Pattern::new(text.to_owned())),
            Operator::Numeric(_) => {
                Self::Number(text.parse().ok().filter(|number: &f64| number.is_finite())?)
            }
            Operator::Date(_) => Self::Moment(moment(text)?),
            Operator::Bool | Operator::Null => Self::Flag(text.to_ascii_lowercase().parse().ok()?),
            Operator::Binary => Self::Bytes(BASE64_STANDARD.decode(text).ok()?),
            Operator::IpAddress => {
                let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
                let address: IpAddr = address.parse().ok()?;
                let width = if address.is_ipv4() { 32 } else { 128 };
                let bits =
                    bits.map_or(Some(width), |bits| bits.parse().ok().filter(|bits| *bits <= width))?;
                Self::Network(address, bits)
            }
        })
    }
}

fn moment(text: &str) -> Option<i128> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(i128::from(seconds) * 1_000_000_000);
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    OffsetDateTime::parse(&whole, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos)
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let plain = |address: IpAddr| match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let (address, network) = (plain(address), plain(network));
    let wide = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    };
    let differ = wide(address) ^ wide(network);
    address.is_ipv4() == network.is_ipv4() && differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
}

impl Test {
    /// Whether the condition holds for a request.
    pub fn holds(&self, request: &impl Request) -> bool {
        let (mut seen, mut any, mut all) = (false, false, true);
        let mut judge = |value: &str| {
            seen = true;
            let holds = self.wanted.iter().any(|wanted| self.compare(wanted, value, request)) != self.negated;
            any |= holds;
            all &= holds;
        };
        if self.key == "aws:sourceip" {
            if let Some(address) = request.source_ip() {
                judge(&address.to_string());
            }
        } else {
            request.values(&self.key, &mut judge);
        }
        if self.operator == Operator::Null {
            return self.wanted.contains(&Wanted::Flag(!seen));
        }
        match (seen, self.quantifier) {
            (false, Quantifier::ForAllValues) => true,
            (false, Quantifier::ForAnyValue) => false,
            // What is not there equals nothing.
            (false, Quantifier::One) => self.if_exists || self.negated,
            (true, Quantifier::One | Quantifier::ForAnyValue) => any,
            (true, Quantifier::ForAllValues) => all,
        }
    }

    fn compare(&self, wanted: &Wanted, value: &str, request: &impl Request) -> bool {
        match (self.operator, wanted) {
            (Operator::StringEquals, Wanted::Text(pattern)) => pattern.equals(value, request),
            (Operator::StringEqualsIgnoreCase, Wanted::Text(pattern)) => {
                pattern.equals_ignoring_case(value, request)
            }
            (Operator::StringLike | Operator::ArnLike, Wanted::Text(pattern)) => {
                pattern.matches(value, request)
            }
            (Operator::Numeric(order), Wanted::Number(number)) => {
                value.parse::<f64>().is_ok_and(|value| order.holds(value, *number))
            }
            (Operator::Date(order), Wanted::Moment(at)) => {
                moment(value).is_some_and(|value| order.holds(value, *at))
            }
            (Operator::Bool, Wanted::Flag(flag)) => {
                value.eq_ignore_ascii_case(if *flag { "true" } else { "false" })
            }
            (Operator::Binary, Wanted::Bytes(bytes)) => {
                BASE64_STANDARD.decode(value).is_ok_and(|value| value == *bytes)
            }
            (Operator::IpAddress, Wanted::Network(network, bits)) => {
                value.parse().is_ok_and(|address| in_network(address, *network, *bits))
            }
            _ => false,
        }
    }

    /// Whether it holds for callers of some fixed set only, so that what it guards is not public.
    pub fn pins_caller(&self) -> bool {
        const PINNING: [&str; 10] = [
            "aws:sourcearn",
            "aws:sourcevpc",
            "aws:sourcevpce",
            "aws:sourceowner",
            "aws:sourceaccount",
            "aws:principalorgid",
            "aws:principalaccount",
            "aws:userid",
            "s3:x-amz-server-side-encryption-aws-kms-key-id",
            "s3:dataaccesspointaccount",
        ];
        let fixed = |wanted: &Wanted| match wanted {
            Wanted::Text(pattern) => !pattern.text().contains(['*', '?', '$']),
            // Wider is as good as everybody.
            Wanted::Network(IpAddr::V4(_), bits) => *bits >= 8,
            Wanted::Network(IpAddr::V6(_), bits) => *bits >= 32,
            Wanted::Number(_) | Wanted::Moment(_) | Wanted::Flag(_) | Wanted::Bytes(_) => false,
        };
        let known = PINNING.contains(&self.key.as_str()) || self.key == "aws:sourceip";
        // For all of no values it holds too.
        let demanded = self.quantifier != Quantifier::ForAllValues && !self.if_exists;
        known && demanded && !self.negated && self.wanted.iter().all(fixed)
    }
}

//! Condition keys that policies may ask of every request, whatever door it came through.

use super::{OWNER, PrincipalKind, Who, shown};
use crate::{clock::rfc3339_s, http::Peer};
use holdfast_gateway_policy::Caller;

/// A request, as far as every door knows of it.
#[derive(Clone, Copy)]
pub struct Global<'a> {
    pub who: &'a Who,
    pub peer: Option<Peer>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

impl Global<'_> {
    /// Visits the values of a key, in lower case; whether it is one of these.
    pub fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) -> bool {
        let caller = self.who.caller();
        match key {
            "aws:username" => match self.who {
                Who::User(principal) if principal.kind == PrincipalKind::AssumedRole => {}
                Who::User(principal) => visit(&principal.name),
                Who::Owner => visit(OWNER),
                Who::Anonymous => {}
            },
            "aws:userid" => match self.who {
                Who::User(principal) if principal.kind != PrincipalKind::Account => visit(&principal.id),
                Who::User(_) | Who::Owner | Who::Anonymous => {
                    self.who.canonical().map(shown).into_iter().for_each(visit);
                }
            },
            "aws:principalaccount" => {
                if let Caller::User { account, .. } = caller {
                    visit(account);
                }
            }
            "aws:principalarn" => {
                // Of whoever has assumed a role, the role's.
                if let Caller::User { arn, role, .. } = caller {
                    visit(role.unwrap_or(arn));
                }
            }
            "aws:principaltype" => visit(match self.who {
                Who::Anonymous => "Anonymous",
                Who::Owner => "Account",
                Who::User(principal) => match principal.kind {
                    PrincipalKind::Account => "Account",
                    PrincipalKind::User => "User",
                    PrincipalKind::AssumedRole => "AssumedRole",
                },
            }),
            "aws:securetransport" => {
                visit(if self.peer.is_some_and(|peer| peer.secure) { "true" } else { "false" });
            }
            "aws:currenttime" => visit(&rfc3339_s(self.now_ms)),
            "aws:epochtime" => visit(&(self.now_ms / 1000).to_string()),
            _ => return false,
        }
        true
    }
}

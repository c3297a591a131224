//! Who belongs to the cluster.

use super::{Step, Tx};
use crate::{
    command::{Outcome, Rejection},
    keys::{self, Table},
    records::{AccessKey, Authority, Host, Record, Token, UsedToken},
};
use holdfast_core::{
    ids::HostId,
    kv::{View, scan_prefix},
    roles::{Role, Roles},
    topology::Place,
};

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn found_cluster(
        &mut self,
        authority: &Authority,
        host: &Host,
        key: &AccessKey,
    ) -> Step<Outcome> {
        if let Some(known) = self.read::<Authority>(&keys::authority())? {
            let same = known == *authority;
            return if same {
                Ok(Outcome::Host(HostId::LOCAL))
            } else {
                Err(Rejection::ClusterExists.into())
            };
        }
        self.write(keys::authority(), authority);
        self.write(keys::host(HostId::LOCAL), host);
        self.write(keys::access_key(&key.access), key);
        Ok(Outcome::Host(HostId::LOCAL))
    }

    fn hosts(&self) -> Step<Vec<(HostId, Host)>> {
        let mut hosts = Vec::new();
        for (key, value) in scan_prefix(&self.kv, &keys::table(Table::Host), usize::MAX)? {
            let id = keys::tail(&key).map(u64::from_be_bytes).ok_or(Rejection::Malformed)?;
            hosts.push((HostId(id), Host::from_bytes(&value)?));
        }
        Ok(hosts)
    }

    pub(super) fn admit_host(&mut self, token: &[u8; 32], host: &Host) -> Step<Outcome> {
        let leave: Token = self.read(&keys::token(token))?.ok_or(Rejection::BadToken)?;
        if leave.expires_ms < self.now() {
            return Err(Rejection::TokenExpired.into());
        }
        if !host.roles.within(leave.roles) || host.revoked {
            return Err(Rejection::RolesNotAllowed.into());
        }
        let hosts = self.hosts()?;
        if hosts.iter().any(|(_, other)| other.name == host.name && !other.revoked) {
            return Err(Rejection::NameTaken.into());
        }
        self.kv.delete(keys::token(token));
        let id = HostId(hosts.last().map_or(HostId::LOCAL.0, |(id, _)| id.0) + 1);
        self.write(keys::host(id), host);
        Ok(Outcome::Host(id))
    }

    /// As [`Tx::admit_host`]; the answer may be lost, and the same host asks again.
    pub(super) fn let_host_in(&mut self, token: &[u8; 32], request: &[u8; 32], host: &Host) -> Step<Outcome> {
        if let Some(used) = self.read::<UsedToken>(&keys::used_token(token))? {
            let known: Option<Host> = self.read(&keys::host(used.host))?;
            let same = used.request == *request && known.is_some_and(|known| known == *host);
            return if same { Ok(Outcome::Host(used.host)) } else { Err(Rejection::BadToken.into()) };
        }
        let outcome = self.admit_host(token, host)?;
        if let Outcome::Host(id) = outcome {
            self.write(keys::used_token(token), &UsedToken { host: id, request: *request });
        }
        Ok(outcome)
    }

    pub(super) fn change_roles(&mut self, id: HostId, roles: Roles) -> Step<Outcome> {
        let host: Host = self.read(&keys::host(id))?.ok_or(Rejection::NoSuchHost)?;
        self.write(keys::host(id), &Host { roles, ..host });
        Ok(Outcome::Done)
    }

    pub(super) fn take_over(&mut self, id: HostId, host: &Host, skip_epochs: u64) -> Step<Outcome> {
        let gone = |(other, record): &(HostId, Host)| *other != id && record.roles.has(Role::Meta);
        for (other, record) in self.hosts()?.into_iter().filter(gone) {
            let roles = record.roles.without(Role::Meta);
            // The same machine, that lost who it was.
            let same = record.address == host.address || record.name == host.name;
            let revoked = record.revoked || roles == Roles::NONE || same;
            self.write(keys::host(other), &Host { roles, revoked, ..record });
        }
        self.write(keys::host(id), host);
        self.skip_epochs(skip_epochs)?;
        Ok(Outcome::Host(id))
    }

    pub(super) fn move_host(&mut self, id: HostId, address: String, place: Place) -> Step<Outcome> {
        let host: Host = self.read(&keys::host(id))?.ok_or(Rejection::NoSuchHost)?;
        self.write(keys::host(id), &Host { address, place, ..host });
        Ok(Outcome::Done)
    }

    pub(super) fn revoke_host(&mut self, id: HostId) -> Step<Outcome> {
        let host: Host = self.read(&keys::host(id))?.ok_or(Rejection::NoSuchHost)?;
        self.write(keys::host(id), &Host { revoked: true, ..host });
        Ok(Outcome::Done)
    }
}

//! What the server was asked to have, until it is known whether it does: an answer may be lost, or whoever waits for it.

use super::{ASKED, Store, id_of, kind_number, number};
use crate::error::Result;
use holdfast_client_sync::{Base, Id, Node};
use rusqlite::{OptionalExtension, params};

impl Store {
    /// The server is about to be asked to have this of a node, which is what the disk has.
    pub fn send(&self, id: Id, asked: &Base) -> Result<()> {
        self.put_part(ASKED, id, asked)
    }

    /// It has answered.
    pub fn answered(&self, id: Id) -> Result<()> {
        self.execute("DELETE FROM asked WHERE id = ?", params![number(id)]).map(drop)
    }

    /// What of a node the server was asked for and has: both sides had it alike then, whatever happened on the disk since.
    pub(super) fn recognise(&self, id: Id, node: &Node) -> Result<()> {
        if self.local(id)?.is_none() && self.base(id)?.is_none() {
            self.recognise_fresh(id, node)?;
        }
        let Some(asked) = self.part(ASKED, id)? else { return Ok(()) };
        let mut base = self.base(id)?.unwrap_or_default();
        if asked.place.as_ref() == Some(&node.place) {
            base.place = asked.place;
        }
        if asked.kind.as_ref() == Some(&node.kind) {
            base.kind = asked.kind;
        }
        if asked.executable == Some(node.executable) {
            base.executable = asked.executable;
        }
        self.set_base(id, Some(&base))?;
        self.answered(id)
    }

    /// A node that the client made has a name of the server's by now.
    fn recognise_fresh(&self, id: Id, node: &Node) -> Result<()> {
        let (class, content) = kind_number(&node.kind);
        let sql = "SELECT id FROM asked JOIN local USING (id) WHERE asked.parent = ? AND asked.name = ?
            AND asked.class = ? AND asked.content IS ? AND id & 1 = 1 LIMIT 1";
        let values = params![number(node.place.parent), node.place.name, class, content];
        let found: Option<i64> =
            self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0)).optional()?;
        let Some(fresh) = found else { return Ok(()) };
        self.call(id_of(fresh), id)?;
        self.set_base(id, Some(&Base::from(node.clone())))
    }
}

//! What the server was asked to have, until it is known whether it does: an answer may be lost, or whoever waits for it.

use super::{Store, id_of, kind_number, kind_of, number};
use crate::error::Result;
use holdfast_client_sync::{Base, Id, Node, Place};
use rusqlite::{OptionalExtension, params};

impl Store {
    /// The server is about to be asked to have this of a node, which is what the disk has.
    pub fn send(&self, id: Id, asked: &Base) -> Result<()> {
        let (place, kind) = (asked.place.as_ref(), asked.kind.as_ref().map(kind_number));
        let values = params![
            number(id),
            place.map(|place| number(place.parent)),
            place.map(|place| &place.name),
            kind.map(|(class, _)| class),
            kind.and_then(|(_, content)| content),
            asked.executable
        ];
        self.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?, ?, ?)", values).map(drop)
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
        let sql = "SELECT parent, name, class, content, executable FROM asked WHERE id = ?";
        let sent = self.connection.prepare_cached(sql)?.query_row(params![number(id)], |row| {
            let parent: Option<i64> = row.get(0)?;
            let place = parent.zip(row.get(1)?).map(|(parent, name)| Place { parent: id_of(parent), name });
            Ok((place, kind_of(row.get(2)?, row.get(3)?), row.get::<_, Option<bool>>(4)?))
        });
        let Some((place, kind, executable)) = sent.optional()? else { return Ok(()) };
        let mut base = self.base(id)?.unwrap_or_default();
        if place.as_ref() == Some(&node.place) {
            base.place = place;
        }
        if kind.as_ref() == Some(&node.kind) {
            base.kind = kind;
        }
        if executable == Some(node.executable) {
            base.executable = executable;
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

//! Multipart uploads: parts hold references to segments, and completion hands them to the version in one command.

use super::{Step, Tx, namespace::check_key, versions::Draft};
use crate::{
    command::{Condition, NamedPart, Outcome, Rejection},
    keys,
    records::{
        Attributes, Checksum, ChecksumAlgorithm, Content, Etag, Extra, Part, PartSummary, Record, SegmentRef,
        Upload,
    },
};
use holdfast_core::{
    ids::{BucketId, UploadId},
    kv::{View, scan_prefix},
    limits::{OBJECT_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX},
};
use std::collections::BTreeMap;

impl<V: View + ?Sized> Tx<'_, V> {
    pub(super) fn create_upload(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        id: UploadId,
        attributes: Attributes,
        checksum: Option<(ChecksumAlgorithm, bool)>,
        extra: &Extra,
    ) -> Step<Outcome> {
        check_key(key)?;
        let mut usage = self.usage(bucket)?;
        usage.uploads += 1;
        self.write_usage(bucket, &usage)?;
        let created_ms = self.wall_ms;
        self.write(keys::upload(bucket, key, id), &Upload { created_ms, attributes, checksum });
        if *extra != Extra::default() {
            self.write(keys::upload_extra(id), extra);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn put_part(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        id: UploadId,
        number: u16,
        part: Part,
    ) -> Step<Outcome> {
        if self.kv.get(&keys::upload(bucket, key, id))?.is_none() {
            return Err(Rejection::NoSuchUpload.into());
        }
        if number == 0 || number > PARTS_MAX {
            return Err(Rejection::InvalidPart(number).into());
        }
        self.reference(&part.segments)?;
        let part_key = keys::part(id, number);
        let replaced = self.read::<Part>(&part_key)?;
        if let Some(replaced) = &replaced {
            self.release_later(&replaced.segments);
        }
        self.charge(bucket, replaced.map_or(0, |part| part.bytes), part.bytes)?;
        self.check_quota(bucket)?;
        self.write(part_key, &part);
        Ok(Outcome::Done)
    }

    #[expect(clippy::too_many_arguments, reason = "the command's own fields")]
    pub(super) fn complete_upload(
        &mut self,
        bucket: BucketId,
        key: &[u8],
        id: UploadId,
        condition: Condition,
        named: &[NamedPart],
        etag: Etag,
        checksum: Option<Checksum>,
    ) -> Step<Outcome> {
        let upload_key = keys::upload(bucket, key, id);
        let upload: Upload = self.read(&upload_key)?.ok_or(Rejection::NoSuchUpload)?;
        let mut parts = self.parts(id)?;
        let mut bytes = 0u64;
        let mut segments: Vec<SegmentRef> = Vec::new();
        let mut summaries = Vec::with_capacity(named.len());
        if !named.is_sorted_by(|a, b| a.number < b.number) {
            return Err(Rejection::InvalidPartOrder.into());
        }
        for (i, NamedPart { number, md5 }) in named.iter().enumerate() {
            let part = parts.remove(number).filter(|part| part.md5 == *md5);
            let part = part.ok_or(Rejection::InvalidPart(*number))?;
            if part.bytes < PART_BYTES_MIN && i + 1 < named.len() {
                return Err(Rejection::PartTooSmall(*number).into());
            }
            bytes += part.bytes;
            segments.extend(part.segments);
            summaries.push(PartSummary { number: *number, bytes: part.bytes, checksum: part.checksum });
        }
        if named.is_empty() {
            return Err(Rejection::Malformed.into());
        }
        if bytes > OBJECT_BYTES_MAX {
            return Err(Rejection::TooLarge.into());
        }
        let extra = self.read::<Extra>(&keys::upload_extra(id))?.unwrap_or_default();
        // The named parts' references become the version's; the others are given up.
        for part in parts.into_values() {
            self.release_later(&part.segments);
        }
        self.remove_upload(bucket, upload_key, id)?;
        let draft = Draft {
            bytes,
            etag,
            content: Content::Segments(segments),
            inline: None,
            attributes: upload.attributes,
            checksum,
            parts: summaries,
            upload: Some(id),
            extra,
        };
        Ok(Outcome::Committed(self.commit(bucket, key, condition, draft)?))
    }

    pub(super) fn abort_upload(&mut self, bucket: BucketId, key: &[u8], id: UploadId) -> Step<Outcome> {
        let upload_key = keys::upload(bucket, key, id);
        if self.kv.get(&upload_key)?.is_none() {
            return Err(Rejection::NoSuchUpload.into());
        }
        for part in self.parts(id)?.into_values() {
            self.release_later(&part.segments);
        }
        self.remove_upload(bucket, upload_key, id)?;
        Ok(Outcome::Done)
    }

    fn parts(&self, id: UploadId) -> Step<BTreeMap<u16, Part>> {
        let mut parts = BTreeMap::new();
        for (key, value) in scan_prefix(&self.kv, &keys::parts_of(id), usize::from(PARTS_MAX))? {
            let number = keys::tail(&key).map_or(0, u16::from_be_bytes);
            parts.insert(number, Part::from_bytes(&value)?);
        }
        Ok(parts)
    }

    fn remove_upload(&mut self, bucket: BucketId, upload_key: Vec<u8>, id: UploadId) -> Step<()> {
        let mut bytes = 0;
        for (key, value) in scan_prefix(&self.kv, &keys::parts_of(id), usize::from(PARTS_MAX))? {
            bytes += Part::from_bytes(&value)?.bytes;
            self.kv.delete(key);
        }
        self.charge(bucket, bytes, 0)?;
        self.kv.delete(upload_key);
        self.remove(keys::upload_extra(id))?;
        let mut usage = self.usage(bucket)?;
        usage.uploads -= 1;
        self.write_usage(bucket, &usage)?;
        Ok(())
    }
}

//! Devices that fail, vanish, come back, or are replaced.

use super::Maintenance;
use crate::engine::EngineError;
use holdfast_core::ids::DeviceId;
use holdfast_meta_raft_machine::command::{Command, Request};
use holdfast_storage_node_server::{Device, DeviceError};
use std::sync::Arc;

/// Opens the device of a slot.
pub type OpenDevice = Arc<dyn Fn(DeviceId) -> Result<Device, DeviceError> + Send + Sync>;

impl Maintenance {
    /// Takes devices out of service that are no longer what they were, and puts back those that can be opened.
    pub(super) async fn watch_devices(self) -> Result<(), EngineError> {
        let slots = &self.engine.shared.placement.devices;
        let mut out = 0;
        for slot in slots.ids() {
            match slots.local(slot) {
                Some(device) if device.is_in_place() => {}
                Some(_) => {
                    tracing::error!(device = %slot, "the device's directory was emptied or replaced: it is taken out of service");
                    slots.set(slot, None);
                    out += 1;
                }
                None => {
                    slots.set(slot, None);
                    out += u32::from(!self.put_back(slot).await?);
                }
            }
        }
        self.engine.metrics().devices_out.set(i64::from(out));
        Ok(())
    }

    async fn put_back(&self, slot: DeviceId) -> Result<bool, EngineError> {
        let open = self.config.open_device.clone();
        let opened =
            tokio::task::spawn_blocking(move || open(slot)).await.map_err(|_| EngineError::ShuttingDown)?;
        match opened {
            Ok(device) => {
                if !self.admit(&device).await? {
                    return Ok(false);
                }
                self.engine.shared.placement.devices.set(slot, Some(device.clone()));
                tracing::warn!(device = %slot, "the device is in service again: what it lacks will be rebuilt");
                self.reconcile(Arc::new(device)).await?;
                Ok(true)
            }
            Err(error) => {
                tracing::debug!(device = %slot, %error, "the device cannot be opened yet");
                Ok(false)
            }
        }
    }

    /// Tells the metadata if another disk stands in the slot; whether it may.
    async fn admit(&self, device: &Device) -> Result<bool, EngineError> {
        let known = self.engine.meta().topology().await?.devices;
        let (slot, incarnation) = (device.slot(), device.incarnation());
        let replaced = known.iter().any(|(id, record)| *id == slot && record.incarnation != incarnation);
        if replaced {
            tracing::warn!(device = %slot, %incarnation, "AN EMPTY DEVICE DIRECTORY WAS FOUND: it counts as a replaced disk, and everything that was on it is rebuilt");
            let command = Command::ReplaceDevice { id: slot, incarnation };
            if let Err(rejection) = self.engine.meta().request(Request::idempotent(command)).await?.accepted()
            {
                tracing::error!(device = %slot, %rejection, "the disk is left out");
                return Ok(false);
            }
            self.engine.shared.placement.refresh().await?;
        }
        Ok(true)
    }

    /// Admits the devices that a process starts with.
    ///
    /// # Errors
    /// Where the metadata service fails.
    pub async fn admit_all(&self) -> Result<(), EngineError> {
        for device in self.engine.shared.placement.devices.in_service() {
            if !self.admit(&device).await? {
                self.engine.shared.placement.devices.set(device.slot(), None);
            }
        }
        Ok(())
    }
}

//! What a device counts.

use holdfast_core::ids::DeviceId;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// One device's series.
#[derive(Debug, Clone)]
pub struct DeviceMetrics {
    pub put_bytes: IntCounter,
    pub put_batches: IntCounter,
    pub put_errors: IntCounter,
    pub put_seconds: Histogram,
    pub read_bytes: IntCounter,
    pub read_errors: IntCounter,
    pub live_bytes: IntGauge,
    pub free_bytes: IntGauge,
    pub shards: IntGauge,
}

/// The series of all devices of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeviceSeries {
    put_bytes: IntCounterVec,
    put_batches: IntCounterVec,
    put_errors: IntCounterVec,
    put_seconds: HistogramVec,
    read_bytes: IntCounterVec,
    read_errors: IntCounterVec,
    live_bytes: IntGaugeVec,
    free_bytes: IntGaugeVec,
    shards: IntGaugeVec,
}

impl DeviceSeries {
    /// Registers the series.
    ///
    /// # Errors
    /// Where they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &["device"])?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let gauges = |name: &str, help: &str| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["device"])?;
            registry.register(Box::new(gauges.clone())).map(|()| gauges)
        };
        let put_bytes = counters("holdfast_shard_put_bytes_total", "Bytes of shards written")?;
        let put_batches =
            counters("holdfast_shard_put_batches_total", "Batches of shards that shared a sync")?;
        let put_errors = counters("holdfast_shard_put_errors_total", "Shards that were refused or failed")?;
        let read_bytes = counters("holdfast_shard_read_bytes_total", "Bytes of shards read and verified")?;
        let read_errors = counters("holdfast_shard_read_errors_total", "Shard reads that failed")?;
        let live_bytes = gauges("holdfast_device_live_bytes", "Bytes of shards on the device")?;
        let free_bytes = gauges("holdfast_device_free_bytes", "Bytes free on the device's file system")?;
        let shards = gauges("holdfast_device_shards", "Shards on the device")?;
        let buckets = exponential_buckets(50e-6, 2.0, 16)?;
        let options =
            HistogramOpts::new("holdfast_shard_put_seconds", "Writing and syncing a batch of shards");
        let put_seconds = HistogramVec::new(options.buckets(buckets), &["device"])?;
        registry.register(Box::new(put_seconds.clone()))?;
        Ok(Self {
            put_bytes,
            put_batches,
            put_errors,
            put_seconds,
            read_bytes,
            read_errors,
            live_bytes,
            free_bytes,
            shards,
        })
    }

    /// One device's.
    pub fn of(&self, device: DeviceId) -> DeviceMetrics {
        let label = device.to_string();
        let label = [label.as_str()];
        DeviceMetrics {
            put_bytes: self.put_bytes.with_label_values(&label),
            put_batches: self.put_batches.with_label_values(&label),
            put_errors: self.put_errors.with_label_values(&label),
            put_seconds: self.put_seconds.with_label_values(&label),
            read_bytes: self.read_bytes.with_label_values(&label),
            read_errors: self.read_errors.with_label_values(&label),
            live_bytes: self.live_bytes.with_label_values(&label),
            free_bytes: self.free_bytes.with_label_values(&label),
            shards: self.shards.with_label_values(&label),
        }
    }
}

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

impl DeviceMetrics {
    /// Registers the series of all `devices`.
    ///
    /// # Errors
    /// Where they are registered already.
    pub fn new(registry: &Registry, devices: &[DeviceId]) -> prometheus::Result<Vec<Self>> {
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
        let of = |device: &DeviceId| {
            let label = [device.to_string()];
            let label = [label[0].as_str()];
            Self {
                put_bytes: put_bytes.with_label_values(&label),
                put_batches: put_batches.with_label_values(&label),
                put_errors: put_errors.with_label_values(&label),
                put_seconds: put_seconds.with_label_values(&label),
                read_bytes: read_bytes.with_label_values(&label),
                read_errors: read_errors.with_label_values(&label),
                live_bytes: live_bytes.with_label_values(&label),
                free_bytes: free_bytes.with_label_values(&label),
                shards: shards.with_label_values(&label),
            }
        };
        Ok(devices.iter().map(of).collect())
    }
}

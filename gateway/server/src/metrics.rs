//! What the gateway counts.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

/// The gateway's series.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub in_flight: IntGauge,
    pub body_bytes_in: IntCounter,
    pub body_bytes_out: IntCounter,
    pub chunk_bytes: IntCounter,
    pub dedup_bytes: IntCounter,
    pub plain_bytes: IntCounter,
    pub stored_bytes: IntCounter,
    pub pack_fill: Histogram,
    pub hedged_reads: IntCounter,
    pub bad_shards: IntCounter,
    pub repaired_shards: IntCounter,
    pub moved_shards: IntCounter,
    pub scrubbed_shards: IntCounter,
    pub compacted_packs: IntCounter,
    pub deleted_packs: IntCounter,
    pub degraded_packs: IntGauge,
    pub devices_out: IntGauge,
}

impl GatewayMetrics {
    /// Registers the series.
    ///
    /// # Errors
    /// Where they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::with_opts(Opts::new(name, help))?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let requests = Opts::new("holdfast_s3_requests_total", "S3 requests by method and status");
        let requests = IntCounterVec::new(requests, &["method", "status"])?;
        registry.register(Box::new(requests.clone()))?;
        let seconds =
            HistogramOpts::new("holdfast_s3_request_seconds", "From request to the head of its response")
                .buckets(exponential_buckets(100e-6, 2.0, 16)?);
        let request_seconds = HistogramVec::new(seconds, &["method"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let fill = HistogramOpts::new("holdfast_pack_plain_bytes", "Plain bytes in a pack when it is closed")
            .buckets(exponential_buckets(4096.0, 2.0, 12)?);
        let pack_fill = Histogram::with_opts(fill)?;
        registry.register(Box::new(pack_fill.clone()))?;
        Ok(Self {
            requests,
            request_seconds,
            in_flight: gauge("holdfast_s3_requests_in_flight", "S3 requests being served")?,
            body_bytes_in: counter("holdfast_s3_body_bytes_in_total", "Bytes of object bodies received")?,
            body_bytes_out: counter("holdfast_s3_body_bytes_out_total", "Bytes of object bodies sent")?,
            chunk_bytes: counter("holdfast_chunk_bytes_total", "Bytes of chunks cut from bodies")?,
            dedup_bytes: counter("holdfast_dedup_bytes_total", "Bytes of chunks that were stored already")?,
            plain_bytes: counter(
                "holdfast_pack_plain_bytes_total",
                "Bytes of new chunks before compression",
            )?,
            stored_bytes: counter(
                "holdfast_pack_stored_bytes_total",
                "Bytes of new chunks after compression",
            )?,
            pack_fill,
            hedged_reads: counter(
                "holdfast_hedged_reads_total",
                "Times that a late shard's content was asked of others",
            )?,
            bad_shards: counter(
                "holdfast_bad_shards_total",
                "Shards found missing or damaged while reading",
            )?,
            repaired_shards: counter("holdfast_repaired_shards_total", "Shards written again")?,
            moved_shards: counter("holdfast_moved_shards_total", "Shards copied to another device")?,
            scrubbed_shards: counter(
                "holdfast_scrubbed_shards_total",
                "Shards read from their medium and verified",
            )?,
            compacted_packs: counter(
                "holdfast_compacted_packs_total",
                "Packs whose live chunks were moved out",
            )?,
            deleted_packs: counter("holdfast_deleted_packs_total", "Packs deleted")?,
            degraded_packs: gauge(
                "holdfast_degraded_packs",
                "Packs with missing shards, as last seen (1000 at most)",
            )?,
            devices_out: gauge("holdfast_devices_out", "Devices out of service")?,
        })
    }
}

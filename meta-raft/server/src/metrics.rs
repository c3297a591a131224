//! What the metadata service counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, exponential_buckets};

/// The metadata service's series.
#[derive(Debug, Clone)]
pub struct MetaMetrics {
    pub entries: IntCounter,
    pub requests: IntCounter,
    pub rejections: IntCounter,
    pub commit_seconds: Histogram,
    pub apply_seconds: Histogram,
    pub applied_index: IntGauge,
    pub log_entries: IntGauge,
    pub collection_stopped: IntGauge,
    pub chunks_condemned: IntCounter,
    pub audits: IntCounter,
    pub archived_until: IntGauge,
}

impl MetaMetrics {
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
        let seconds = |name: &str, help: &str| {
            let buckets = exponential_buckets(50e-6, 2.0, 16)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone())).map(|()| histogram)
        };
        Ok(Self {
            entries: counter("holdfast_raft_entries_total", "Raft entries applied")?,
            requests: counter("holdfast_raft_requests_total", "Metadata requests applied")?,
            rejections: counter("holdfast_raft_rejections_total", "Metadata requests rejected")?,
            commit_seconds: seconds("holdfast_raft_commit_seconds", "From proposal to durable, by batch")?,
            apply_seconds: seconds("holdfast_raft_apply_seconds", "Applying a batch")?,
            applied_index: gauge("holdfast_raft_applied_index", "Last applied raft entry")?,
            log_entries: gauge("holdfast_raft_log_entries", "Raft entries not yet compacted")?,
            archived_until: gauge(
                "holdfast_archived_until_seconds",
                "Everything committed before this time is in the metadata's archive; 0 where this member does not lead",
            )?,
            collection_stopped: gauge(
                "holdfast_collection_stopped",
                "1 while garbage collection is stopped by the auditor",
            )?,
            chunks_condemned: counter(
                "holdfast_chunks_condemned_total",
                "Chunks that nothing referenced, forgotten",
            )?,
            audits: counter("holdfast_audits_total", "Reference audits that found every counter right")?,
        })
    }
}

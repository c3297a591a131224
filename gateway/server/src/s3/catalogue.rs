//! Configurations of services that Amazon has beside S3, and this has not: they are kept and shown, and nothing follows from them.

use super::{
    S3Door,
    access::scene,
    documents::{malformed, set, to_xml},
    error,
    settings::from_xml,
};
use hyper::StatusCode;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AnalyticsConfiguration, BucketAccelerateStatus, DeleteBucketAnalyticsConfigurationInput,
        DeleteBucketAnalyticsConfigurationOutput, DeleteBucketIntelligentTieringConfigurationInput,
        DeleteBucketIntelligentTieringConfigurationOutput, DeleteBucketInventoryConfigurationInput,
        DeleteBucketInventoryConfigurationOutput, DeleteBucketMetricsConfigurationInput,
        DeleteBucketMetricsConfigurationOutput, GetBucketAccelerateConfigurationInput,
        GetBucketAccelerateConfigurationOutput, GetBucketAnalyticsConfigurationInput,
        GetBucketAnalyticsConfigurationOutput, GetBucketIntelligentTieringConfigurationInput,
        GetBucketIntelligentTieringConfigurationOutput, GetBucketInventoryConfigurationInput,
        GetBucketInventoryConfigurationOutput, GetBucketMetricsConfigurationInput,
        GetBucketMetricsConfigurationOutput, IntelligentTieringConfiguration, InventoryConfiguration,
        ListBucketAnalyticsConfigurationsInput, ListBucketAnalyticsConfigurationsOutput,
        ListBucketIntelligentTieringConfigurationsInput, ListBucketIntelligentTieringConfigurationsOutput,
        ListBucketInventoryConfigurationsInput, ListBucketInventoryConfigurationsOutput,
        ListBucketMetricsConfigurationsInput, ListBucketMetricsConfigurationsOutput, MetricsConfiguration,
        PutBucketAccelerateConfigurationInput, PutBucketAccelerateConfigurationOutput,
        PutBucketAnalyticsConfigurationInput, PutBucketAnalyticsConfigurationOutput,
        PutBucketIntelligentTieringConfigurationInput, PutBucketIntelligentTieringConfigurationOutput,
        PutBucketInventoryConfigurationInput, PutBucketInventoryConfigurationOutput,
        PutBucketMetricsConfigurationInput, PutBucketMetricsConfigurationOutput,
    },
    s3_error,
};

/// Configurations of one kind that a bucket may have. S3 allows a thousand; all of a bucket's are read with it.
const OF_A_KIND_MAX: usize = 100;

/// Bytes of the name of one, as in S3.
const ID_MAX: usize = 64;

fn missing() -> s3s::S3Error {
    let message = "The specified configuration does not exist.";
    error::custom("NoSuchConfiguration", StatusCode::NOT_FOUND, message)
}

/// The four operations of each kind.
macro_rules! kinds {
    ($($kind:literal, $field:ident, $list:ident, $type:ident:
        $put:ident $put_in:ident $put_out:ident, $get:ident $get_in:ident $get_out:ident,
        $all:ident $all_in:ident $all_out:ident, $delete:ident $delete_in:ident $delete_out:ident;)*) => {
        $(
            pub async fn $put(door: &S3Door, request: S3Request<$put_in>) -> S3Result<S3Response<$put_out>> {
                let scene = scene(&request)?;
                let bucket = scene.bucket()?;
                let $put_in { id, $field: config, .. } = request.input;
                if id != config.id || id.is_empty() || id.len() > ID_MAX {
                    return Err(malformed());
                }
                let name = format!("{}/{id}", $kind);
                let kept = &bucket.config.documents;
                let others = kept.keys().filter(|other| other.starts_with(concat!($kind, "/")) && **other != name);
                if others.count() >= OF_A_KIND_MAX {
                    let message = "You are attempting to create a new configuration but have already reached the limit.";
                    return Err(error::custom("TooManyConfigurations", StatusCode::BAD_REQUEST, message));
                }
                set(door, bucket, &name, Some(to_xml::<$type>(&config)?)).await?;
                Ok(S3Response::new($put_out::default()))
            }

            pub fn $get(_door: &S3Door, request: S3Request<$get_in>) -> S3Result<S3Response<$get_out>> {
                let scene = scene(&request)?;
                let name = format!("{}/{}", $kind, request.input.id);
                let text = scene.bucket()?.config.documents.get(&name).ok_or_else(missing)?;
                Ok(S3Response::new($get_out { $field: from_xml(text) }))
            }

            pub fn $all(_door: &S3Door, request: S3Request<$all_in>) -> S3Result<S3Response<$all_out>> {
                let scene = scene(&request)?;
                let kept = scene.bucket()?.config.documents.iter();
                let kept = kept.filter(|(name, _)| name.starts_with(concat!($kind, "/")));
                let list: Vec<$type> = kept.filter_map(|(_, text)| from_xml(text)).collect();
                let list = Some(list).filter(|list| !list.is_empty());
                Ok(S3Response::new($all_out { $list: list, is_truncated: Some(false), ..Default::default() }))
            }

            pub async fn $delete(door: &S3Door, request: S3Request<$delete_in>) -> S3Result<S3Response<$delete_out>> {
                let scene = scene(&request)?;
                let bucket = scene.bucket()?;
                let name = format!("{}/{}", $kind, request.input.id);
                bucket.config.documents.get(&name).ok_or_else(missing)?;
                set(door, bucket, &name, None).await?;
                Ok(S3Response::new($delete_out::default()))
            }
        )*
    };
}

kinds! {
    "analytics", analytics_configuration, analytics_configuration_list, AnalyticsConfiguration:
        put_bucket_analytics_configuration PutBucketAnalyticsConfigurationInput PutBucketAnalyticsConfigurationOutput,
        get_bucket_analytics_configuration GetBucketAnalyticsConfigurationInput GetBucketAnalyticsConfigurationOutput,
        list_bucket_analytics_configurations ListBucketAnalyticsConfigurationsInput ListBucketAnalyticsConfigurationsOutput,
        delete_bucket_analytics_configuration DeleteBucketAnalyticsConfigurationInput DeleteBucketAnalyticsConfigurationOutput;
    "tiering", intelligent_tiering_configuration, intelligent_tiering_configuration_list, IntelligentTieringConfiguration:
        put_bucket_intelligent_tiering_configuration PutBucketIntelligentTieringConfigurationInput PutBucketIntelligentTieringConfigurationOutput,
        get_bucket_intelligent_tiering_configuration GetBucketIntelligentTieringConfigurationInput GetBucketIntelligentTieringConfigurationOutput,
        list_bucket_intelligent_tiering_configurations ListBucketIntelligentTieringConfigurationsInput ListBucketIntelligentTieringConfigurationsOutput,
        delete_bucket_intelligent_tiering_configuration DeleteBucketIntelligentTieringConfigurationInput DeleteBucketIntelligentTieringConfigurationOutput;
    "inventory", inventory_configuration, inventory_configuration_list, InventoryConfiguration:
        put_bucket_inventory_configuration PutBucketInventoryConfigurationInput PutBucketInventoryConfigurationOutput,
        get_bucket_inventory_configuration GetBucketInventoryConfigurationInput GetBucketInventoryConfigurationOutput,
        list_bucket_inventory_configurations ListBucketInventoryConfigurationsInput ListBucketInventoryConfigurationsOutput,
        delete_bucket_inventory_configuration DeleteBucketInventoryConfigurationInput DeleteBucketInventoryConfigurationOutput;
    "metrics", metrics_configuration, metrics_configuration_list, MetricsConfiguration:
        put_bucket_metrics_configuration PutBucketMetricsConfigurationInput PutBucketMetricsConfigurationOutput,
        get_bucket_metrics_configuration GetBucketMetricsConfigurationInput GetBucketMetricsConfigurationOutput,
        list_bucket_metrics_configurations ListBucketMetricsConfigurationsInput ListBucketMetricsConfigurationsOutput,
        delete_bucket_metrics_configuration DeleteBucketMetricsConfigurationInput DeleteBucketMetricsConfigurationOutput;
}

pub fn get_bucket_accelerate_configuration(
    _door: &S3Door,
    request: S3Request<GetBucketAccelerateConfigurationInput>,
) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
    let scene = scene(&request)?;
    // A bucket that was never asked to hurry says nothing.
    let kept = scene.bucket()?.config.documents.get("accelerate");
    let status = kept.map(|text| BucketAccelerateStatus::from(text.clone()));
    Ok(S3Response::new(GetBucketAccelerateConfigurationOutput { status, ..Default::default() }))
}

pub async fn put_bucket_accelerate_configuration(
    door: &S3Door,
    request: S3Request<PutBucketAccelerateConfigurationInput>,
) -> S3Result<S3Response<PutBucketAccelerateConfigurationOutput>> {
    let scene = scene(&request)?;
    let bucket = scene.bucket()?;
    let status = request.input.accelerate_configuration.status.ok_or_else(malformed)?;
    if ![BucketAccelerateStatus::ENABLED, BucketAccelerateStatus::SUSPENDED].contains(&status.as_str()) {
        return Err(malformed());
    }
    if bucket.bucket.name.contains('.') {
        return Err(s3_error!(
            InvalidRequest,
            "S3 Transfer Acceleration is not supported for buckets with periods (.) in their names"
        ));
    }
    set(door, bucket, "accelerate", Some(status.as_str().to_owned())).await?;
    Ok(S3Response::new(PutBucketAccelerateConfigurationOutput::default()))
}

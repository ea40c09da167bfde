//! The metrics of endpoints.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::Made;

/// The metrics of all endpoints of a topology.
#[derive(Clone)]
pub struct EndpointMetrics {
    requests: IntCounterVec,
    time: HistogramVec,
    in_flight: IntGaugeVec,
    connections: IntGaugeVec,
}

impl EndpointMetrics {
    pub(super) fn new(made: &mut Made) -> Result<EndpointMetrics, prometheus::Error> {
        Ok(EndpointMetrics {
            requests: made.counts(
                "endpoint_requests_total",
                "Requests answered, by status; 499: the client went away before.",
                &["endpoint", "status"],
            )?,
            time: made.histograms(
                "endpoint_request_seconds",
                "From a request's head to its answer.",
                &["endpoint"],
            )?,
            in_flight: made.gauges(
                "endpoint_requests_in_flight",
                "Requests that are not answered yet.",
                &["endpoint"],
            )?,
            connections: made.gauges("endpoint_connections", "Open connections of clients.", &[])?,
        })
    }

    /// A request has come.
    pub fn begin(&self, endpoint: &str) {
        self.in_flight.with_label_values(&[endpoint]).inc();
    }

    /// A request has been answered with this status, or its client has gone.
    pub fn end(&self, endpoint: &str, status: u16, time: Duration) {
        self.in_flight.with_label_values(&[endpoint]).dec();
        self.requests.with_label_values(&[endpoint, &status.to_string()]).inc();
        self.time.with_label_values(&[endpoint]).observe(time.as_secs_f64());
    }

    /// So many more connections are open, or fewer.
    pub fn connections(&self, more: i64) {
        self.connections.with_label_values::<&str>(&[]).add(more);
    }
}

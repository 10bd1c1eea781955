use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;

use super::{TraceError, is_configured};
use crate::{
    http_client::{HttpClient, Schemes, Settings, all_addresses},
    proxy::observability::metrics::{Label, Outcome},
};

/// Default of `OTEL_SERVICE_NAME`.
const SERVICE_NAME: &str = "mcp-oauth-proxy";

/// Exports spans to a collector, by OTLP over HTTP.
#[derive(Debug, Default)]
pub struct Tracer(Option<(SdkTracerProvider, SdkTracer)>);

/// The span of a request; `None` without a tracer.
pub struct Span(Option<Context>);

impl Tracer {
    /// Reads OpenTelemetry's variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_TRACES_SAMPLER`. Exports on `control`.
    pub fn from_environment(control: &Handle) -> Result<Self, TraceError> {
        if is_configured() { Self::exporting(None, control) } else { Ok(Self::default()) }
    }

    /// Exports to `endpoint`; `None` means the endpoint of the environment.
    pub fn exporting(endpoint: Option<&str>, control: &Handle) -> Result<Self, TraceError> {
        let client = HttpClient::new(Settings {
            schemes: Schemes::HttpAndHttps { ca: None },
            timeout: Duration::from_secs(10),
            max_body: 64 * 1024,
            addresses: all_addresses,
            pooled: true,
        });
        let client = client.map_err(|error| TraceError(error.into()))?;
        let mut exporter =
            SpanExporter::builder().with_http().with_http_client(Collector { client, control: control.clone() });
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().map_err(|error| TraceError(error.into()))?;
        let resource = Resource::builder();
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name(SERVICE_NAME),
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self(Some((provider, tracer))))
    }

    /// Starts the span of a request. It continues the trace of the request's headers.
    pub fn begin(&self, request: &Parts) -> Span {
        let Some((_, tracer)) = &self.0 else { return Span(None) };
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(&request.headers));
        // OpenTelemetry semantic conventions for HTTP spans. Without the query, which may contain secrets.
        let span = tracer
            .span_builder(request.method.as_str().to_owned())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", request.method.as_str().to_owned()),
                KeyValue::new("url.path", request.uri.path().to_owned()),
            ])
            .start_with_context(tracer, &parent);
        Span(Some(parent.with_span(span)))
    }

    /// Exports the remaining spans.
    pub async fn shut_down(&self) {
        let Some((provider, _)) = self.0.clone() else { return };
        // `shutdown` blocks on the exporter's thread, which waits for this runtime.
        let shutdown = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        let shutdown = shutdown.map_err(|error| error.to_string());
        if let Err(error) = shutdown.and_then(|result| result.map_err(|error| error.to_string())) {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

impl Span {
    /// The trace headers of the forwarded request, which replace the client's.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(&mut headers));
        }
        headers
    }

    /// Ends the span at the response head.
    pub fn end(self, outcome: Outcome, status: StatusCode) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        span.set_attribute(KeyValue::new("mcp_oauth_proxy.outcome", outcome.text()));
        if status.is_server_error() {
            span.set_status(Status::error(outcome.text()));
        }
        span.end();
    }
}

/// The HTTP client of the exporter. It runs on the control runtime.
#[derive(Debug)]
struct Collector {
    client: HttpClient,
    control: Handle,
}

#[async_trait]
impl opentelemetry_http::HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter calls this on a thread without a runtime.
        let client = self.client.clone();
        Ok(self.control.spawn(async move { client.send(request).await }).await??)
    }
}

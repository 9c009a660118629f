//! The HTTP face: health, metrics, and the REST interface that operators' commands and dashboards use.
//!
//! [`ROUTES`] is the one list of what there is and who may: the router, the guard before every handler and
//! `/openapi.json` are made from it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use consilium_core::adapter::Schema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::core::{Core, Principal};
use super::spec::SessionSpec;
use super::store::Role;
use crate::error::NetError;
use crate::pki::Holder;

/// Largest seed adapter with its order, bytes.
const LARGEST_ORDER: usize = 1 << 30;
/// How long an invitation is good unless the operator says otherwise, hours.
const INVITATION_HOURS: u64 = 7 * 24;

type Shared = State<Arc<Core>>;
type By = Extension<Principal>;
type Answered = Result<Response, Refused>;

/// The first line of an order for a session; the seed's archive follows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What the session is made of.
    pub spec: SessionSpec,
    /// Instead of an archive behind the line: the name of an uploaded model, or of a session whose last model is meant.
    #[serde(default)]
    pub from: Option<String>,
}

/// The first line of an upload of a model; its archive follows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelUpload {
    /// The model's name.
    pub name: String,
    /// Names and shapes, in the order of the archive.
    pub schema: Schema,
}

/// An order for an invitation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// The site to become.
    pub site: String,
    /// How long the token is good.
    #[serde(default)]
    pub hours: Option<u64>,
}

/// An error as JSON with its status.
struct Refused(NetError);

impl From<NetError> for Refused {
    fn from(error: NetError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            error if error.is_storage() => StatusCode::SERVICE_UNAVAILABLE,
            NetError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            NetError::NotFound { .. } => StatusCode::NOT_FOUND,
            NetError::Denied(_) => StatusCode::FORBIDDEN,
            NetError::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            NetError::Adapter(_) | NetError::Invalid(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "message": self.0.to_string() }))).into_response()
    }
}

/// Runs a command of the core where it may block.
async fn ask<T: Send + 'static>(
    core: &Arc<Core>,
    command: impl FnOnce(&Core) -> Result<T, NetError> + Send + 'static,
) -> Result<T, Refused> {
    let core = core.clone();
    let done = tokio::task::spawn_blocking(move || command(&core)).await;
    Ok(done.map_err(|_| NetError::Internal("the command broke off".into()))??)
}

/// What there is, and who may.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// Path, with parts in braces.
    pub path: &'static str,
    /// The least role that may; `None` lets everybody.
    pub role: Option<Role>,
    /// One sentence.
    pub about: &'static str,
}

const fn route(method: &'static str, path: &'static str, role: Option<Role>, about: &'static str) -> Route {
    Route { method, path, role, about }
}

const ANYBODY: Option<Role> = None;
const VIEWER: Option<Role> = Some(Role::Viewer);
const OPERATOR: Option<Role> = Some(Role::Operator);

/// Every route of this face.
pub const ROUTES: [Route; 20] = [
    route(
        "GET",
        "/health",
        ANYBODY,
        "200 while the store works and rounds move on, else 503 with the reason",
    ),
    route("GET", "/ready", ANYBODY, "The same, for load balancers"),
    route("GET", "/metrics", ANYBODY, "Numbers for Prometheus"),
    route("GET", "/openapi.json", ANYBODY, "This list, as OpenAPI 3.1"),
    route("GET", "/v1/sessions", VIEWER, "Every session, oldest first"),
    route(
        "POST",
        "/v1/sessions",
        OPERATOR,
        "Orders a session: a line of JSON, then the seed adapter's archive unless the line names one",
    ),
    route("GET", "/v1/sessions/{name}", VIEWER, "One session with its rounds, models and reported scores"),
    route("POST", "/v1/sessions/{name}/stop", OPERATOR, "Ends a session after its last committed round"),
    route("POST", "/v1/sessions/{name}/continue", OPERATOR, "Goes on with a stopped session"),
    route("GET", "/v1/models", VIEWER, "Every uploaded model"),
    route(
        "POST",
        "/v1/models",
        OPERATOR,
        "Uploads a model: a line of JSON with its name and schema, then its archive",
    ),
    route(
        "GET",
        "/v1/models/{name}",
        VIEWER,
        "The uploaded model of this name, or the last one of the session",
    ),
    route("GET", "/v1/models/{session}/{archive}", VIEWER, "A model's archive (npz)"),
    route("GET", "/v1/sites", VIEWER, "Every site and when it was last heard of"),
    route("GET", "/v1/sites/{name}", VIEWER, "One site and its part in every session"),
    route("DELETE", "/v1/sites/{name}", OPERATOR, "Shuts a site out, at once"),
    route("POST", "/v1/invitations", OPERATOR, "Makes a one-time enrolment token for a named site"),
    route("GET", "/v1/audit", VIEWER, "The audit log, after checking every link"),
    route("GET", "/v1/events", VIEWER, "Every session anew whenever one changes, as server-sent events"),
    route("GET", "/v1/whoami", VIEWER, "Name and role of the bearer"),
];

fn handler(route: &Route) -> MethodRouter<Arc<Core>> {
    match (route.method, route.path) {
        (_, "/health" | "/ready") => get(health),
        (_, "/metrics") => get(metrics),
        (_, "/openapi.json") => get(openapi),
        ("GET", "/v1/sessions") => get(sessions),
        ("POST", "/v1/sessions") => post(order),
        (_, "/v1/sessions/{name}") => get(session),
        (_, "/v1/sessions/{name}/stop") => post(stop),
        (_, "/v1/sessions/{name}/continue") => post(go_on),
        ("GET", "/v1/models") => get(library),
        ("POST", "/v1/models") => post(upload_model),
        (_, "/v1/models/{name}") => get(starting_point),
        (_, "/v1/models/{session}/{archive}") => get(model),
        (_, "/v1/sites") => get(sites),
        ("GET", "/v1/sites/{name}") => get(site),
        ("DELETE", "/v1/sites/{name}") => delete(revoke),
        (_, "/v1/invitations") => post(invite),
        (_, "/v1/audit") => get(audit),
        (_, "/v1/events") => get(events),
        (_, "/v1/whoami") => get(whoami),
        (method, path) => unreachable!("{method} {path} is in ROUTES and has no handler"),
    }
}

/// Every route, before the gRPC service is added.
pub(super) fn router(core: Arc<Core>) -> Router {
    let guarded = ROUTES.iter().fold(Router::new(), |router, route| {
        let mut method = handler(route);
        if let Some(role) = route.role {
            method = method.route_layer(from_fn_with_state((core.clone(), role), guard));
        }
        router.route(route.path, method)
    });
    guarded.layer(DefaultBodyLimit::max(LARGEST_ORDER)).with_state(core)
}

/// Lets a request pass whose bearer has at least the role, and tells the handler who it is.
async fn guard(
    State((core, needed)): State<(Arc<Core>, Role)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let token = token.ok_or_else(|| NetError::Unauthenticated("a bearer token is needed".into()))?;
    let principal = ask(&core, move |core| core.authenticate(&token)).await?;
    principal.check(request.extensions().get::<Holder>())?;
    match (principal.role, needed) {
        (Role::Operator, _) | (Role::Viewer, Role::Viewer) => {}
        (role, _) => return Err(NetError::Denied(format!("a {} may not do this", role.word())).into()),
    }
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

async fn health(State(core): Shared) -> Response {
    let trouble = core.failure().or_else(|| (!core.is_driven()).then(|| "rounds do not move on".to_owned()));
    match trouble {
        None => Json(json!({ "status": "ok" })).into_response(),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "failed", "why": why }))).into_response()
        }
    }
}

async fn metrics(State(core): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], super::metrics::render(&core)).into_response()
}

async fn sessions(State(core): Shared) -> Answered {
    Ok(Json(ask(&core, |core| Ok(core.sessions())).await?).into_response())
}

async fn session(State(core): Shared, Path(name): Path<String>) -> Answered {
    let (view, history) = ask(&core, move |core| Ok((core.session(&name)?, core.history(&name)?))).await?;
    let mut shown = json!(history);
    shown["session"] = json!(view);
    Ok(Json(shown).into_response())
}

/// A line of JSON, and the bytes that follow it.
fn line_and_rest<T: DeserializeOwned>(body: &[u8]) -> Result<(T, &[u8]), NetError> {
    let end = body.iter().position(|&byte| byte == b'\n').unwrap_or(body.len());
    let line = serde_json::from_slice(&body[..end])
        .map_err(|e| NetError::Invalid(format!("the first line of what was sent: {e}")))?;
    Ok((line, body.get(end + 1..).unwrap_or_default()))
}

async fn library(State(core): Shared) -> Answered {
    Ok(Json(ask(&core, |core| core.library()).await?).into_response())
}

async fn upload_model(State(core): Shared, Extension(by): By, body: Bytes) -> Answered {
    let row = ask(&core, move |core| {
        let (upload, archive): (ModelUpload, _) = line_and_rest(&body)?;
        core.upload_model(&by, &upload.name, &upload.schema, archive)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(row)).into_response())
}

async fn starting_point(State(core): Shared, Path(name): Path<String>) -> Answered {
    Ok(Json(ask(&core, move |core| core.starting_point(&name)).await?).into_response())
}

/// The body is one line of JSON, the specification, and after it the seed's archive.
async fn order(State(core): Shared, Extension(by): By, body: Bytes) -> Answered {
    let (id, name) = ask(&core, move |core| {
        let (order, archive): (Order, _) = line_and_rest(&body)?;
        let name = order.spec.name.clone();
        let id = match &order.from {
            Some(from) => core.order_from(&by, order.spec, from)?,
            None => core.order(&by, order.spec, archive)?,
        };
        Ok((id, name))
    })
    .await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "name": name }))).into_response())
}

async fn stop(State(core): Shared, Extension(by): By, Path(name): Path<String>) -> Answered {
    ask(&core, move |core| core.stop_session(&by, &name)).await?;
    Ok(Json(json!({ "status": "stopped" })).into_response())
}

async fn go_on(State(core): Shared, Extension(by): By, Path(name): Path<String>) -> Answered {
    ask(&core, move |core| core.continue_session(&by, &name)).await?;
    Ok(Json(json!({ "status": "running" })).into_response())
}

async fn model(
    State(core): Shared,
    Extension(by): By,
    Path((session, archive)): Path<(String, String)>,
) -> Answered {
    let bytes = ask(&core, move |core| {
        let found = core.model(&by, &session, &archive);
        // The name may be an uploaded model's.
        let bytes = match (found, core.starting_point(&session)) {
            (Ok(model), _) => model.bytes,
            (Err(NetError::NotFound { .. }), Ok(uploaded)) if uploaded.archive == archive => uploaded.bytes,
            (Err(error), _) => return Err(error),
        };
        core.model_piece(&archive, 0, usize::try_from(bytes).unwrap_or(usize::MAX))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

async fn sites(State(core): Shared) -> Answered {
    let sites = ask(&core, |core| core.sites()).await?;
    let shown = sites.into_iter().map(|(site, ago)| {
        json!({
            "name": site.name, "created": site.created, "revoked": site.revoked,
            "seen_s_ago": ago.map(|ago| ago.as_millis() as f64 / 1e3),
        })
    });
    Ok(Json(shown.collect::<Vec<_>>()).into_response())
}

async fn site(State(core): Shared, Path(name): Path<String>) -> Answered {
    Ok(Json(ask(&core, move |core| core.site(&name)).await?).into_response())
}

async fn revoke(State(core): Shared, Extension(by): By, Path(name): Path<String>) -> Answered {
    ask(&core, move |core| core.revoke(&by, &name)).await?;
    Ok(Json(json!({ "status": "revoked" })).into_response())
}

async fn invite(State(core): Shared, Extension(by): By, Json(asked): Json<Invitation>) -> Answered {
    let life = Duration::from_secs(asked.hours.unwrap_or(INVITATION_HOURS).saturating_mul(3600));
    let site = asked.site.clone();
    let token = ask(&core, move |core| core.invite(&by, &asked.site, life)).await?;
    Ok((StatusCode::CREATED, Json(json!({ "site": site, "token": token }))).into_response())
}

async fn audit(State(core): Shared) -> Answered {
    let log = ask(&core, |core| core.audit()).await?;
    Ok(Json(log).into_response())
}

async fn whoami(Extension(by): By) -> Response {
    Json(json!({ "name": by.name, "role": by.role })).into_response()
}

async fn events(State(core): Shared) -> Response {
    let changes = WatchStream::new(core.changes());
    let events = changes.then(move |_| {
        let core = core.clone();
        async move {
            let sessions = ask(&core, |core| Ok(core.sessions())).await.unwrap_or_default();
            Ok::<_, Infallible>(Event::default().event("sessions").json_data(sessions).unwrap_or_default())
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn openapi() -> Response {
    let mut paths = serde_json::Map::new();
    for route in &ROUTES {
        let parameters = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<_> = parameters
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let mut operation = json!({
            "summary": route.about,
            "parameters": parameters,
            "responses": { "default": { "description": "JSON; an error has the field `message`" } },
        });
        if let Some(role) = route.role {
            operation["security"] = json!([{ "bearer": [role.word()] }]);
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation;
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Consilium", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } } },
    });
    Json(document).into_response()
}

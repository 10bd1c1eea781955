//! A fake Kubernetes API server: a map of objects by path and a journal of writes. It implements neither schemas nor field
//! ownership; the e2e tests cover those with a real API server.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    groups: BTreeMap<String, Value>,
    writes: Vec<String>,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        Client::new(service, "default")
    }

    /// Stores an object without a journal entry.
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    /// Makes discovery return a kind.
    pub fn serve(&self, group_version: &str, plural: &str) {
        let list = json!({"groupVersion": group_version, "resources": [
            {"name": plural, "singularName": "", "namespaced": true, "kind": "", "verbs": []}]});
        self.0.lock().unwrap().groups.insert(format!("/apis/{group_version}"), list);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Write requests since the last call, as `METHOD path`, or `DELETE path with uid UID` for a delete with that precondition.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut state = self.0.lock().unwrap();
        let path = parts.uri.path().to_owned();
        if parts.method == Method::GET {
            let found = state.groups.get(&path).or_else(|| state.objects.get(&path));
            return found.map_or_else(not_found, |object| respond(StatusCode::OK, object));
        }
        let body_of_delete: Value = serde_json::from_slice(&body).unwrap_or_default();
        match body_of_delete["preconditions"]["uid"].as_str().filter(|_| parts.method == Method::DELETE) {
            Some(uid) => state.writes.push(format!("DELETE {path} with uid {uid}")),
            None => state.writes.push(format!("{} {path}", parts.method)),
        }
        match parts.method {
            Method::PATCH => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                state.objects.insert(path, object.clone());
                respond(StatusCode::OK, &object)
            }
            Method::POST => {
                let mut object: Value = serde_json::from_slice(&body).unwrap();
                store_secret_data(&mut object);
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return status(StatusCode::CONFLICT, "AlreadyExists");
                }
                state.objects.insert(path, object.clone());
                respond(StatusCode::CREATED, &object)
            }
            Method::DELETE => {
                state.objects.remove(&path).map_or_else(not_found, |object| respond(StatusCode::OK, &object))
            }
            method => panic!("unexpected method {method}"),
        }
    }
}

/// Moves `stringData` to `data`, as the API server does.
fn store_secret_data(object: &mut Value) {
    use base64::{Engine, prelude::BASE64_STANDARD};
    if let Some(Value::Object(strings)) = object.as_object_mut().and_then(|object| object.remove("stringData")) {
        for (key, value) in strings {
            object["data"][key] = BASE64_STANDARD.encode(value.as_str().unwrap()).into();
        }
    }
}

fn not_found() -> Response<Body> {
    status(StatusCode::NOT_FOUND, "NotFound")
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code.as_u16()});
    respond(code, &status)
}

fn respond(code: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

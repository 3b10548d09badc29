//! As much of an API server as a run talks to before there are pods: it keeps the objects that it is given.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The objects by their path.
type Objects = BTreeMap<String, Value>;

#[derive(Default)]
struct State {
    objects: Objects,
    /// What nobody may do: the beginning of method and path.
    forbidden: Vec<String>,
}

pub(super) struct FakeApi {
    pub(super) url: String,
    state: Arc<Mutex<State>>,
    _served: tokio::task::JoinHandle<()>,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let served = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self {
            url,
            state,
            _served: served,
        }
    }

    /// The paths of what there is, but for what is everywhere.
    pub(super) fn paths(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        store(&mut self.state.lock().unwrap().objects, path.to_owned(), object);
    }

    /// From now on what begins with this method and path is answered with 403.
    pub(super) fn forbid(&self, what: &str) {
        self.state.lock().unwrap().forbidden.push(what.to_owned());
    }

    /// A kubeconfig for it.
    pub(super) fn kubeconfig(&self, folder: &std::path::Path) -> std::path::PathBuf {
        let file = folder.join("fake-config");
        let text = format!(
            "current-context: c\nclusters:\n- name: k\n  cluster: {{server: '{}'}}\nusers:\n- name: u\n  user: {{}}\n\
             contexts:\n- name: c\n  context: {{cluster: k, user: u}}\n",
            self.url
        );
        std::fs::write(&file, text).unwrap();
        file
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(1..) if line.trim().is_empty() => break,
                Ok(1..) => head.push(line.trim().to_owned()),
                Ok(0) | Err(_) => return,
            }
        }
        let length = head
            .iter()
            .filter_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
            .next();
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let mut words = head[0].split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (status, answer) = {
            let mut state = state.lock().unwrap();
            let asked = format!("{method} {path}");
            match state.forbidden.iter().any(|forbidden| asked.starts_with(forbidden)) {
                true => failure(403, "Forbidden", &asked),
                false => answer(
                    method,
                    path,
                    &selector(query),
                    serde_json::from_slice(&body).ok(),
                    &mut state.objects,
                ),
            }
        };
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        if stream.write_all(format!("{head}{text}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Whether a path is that of a list: `/api/v1/namespaces/x/pods`, not `/api/v1/namespaces/x`.
fn is_list(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let rest = &parts[if parts[0] == "api" { 2 } else { 3 }..];
    match rest {
        ["namespaces", _, _, more @ ..] => more.is_empty(),
        [_, more @ ..] => more.is_empty(),
        [] => false,
    }
}

/// What a query wants of labels: `name`, `name=value`, `name!=value`.
fn selector(query: &str) -> Vec<String> {
    let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
    let signs = [("%2C", ","), ("%2F", "/"), ("%3D", "="), ("%21", "!")];
    let plain = signs
        .iter()
        .fold(wanted.unwrap_or_default().to_owned(), |text, (code, sign)| {
            text.replace(code, sign)
        });
    plain
        .split(',')
        .filter(|term| !term.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_selected(object: &Value, selector: &[String]) -> bool {
    let label = |name: &str| object["metadata"]["labels"][name].as_str().map(str::to_owned);
    selector
        .iter()
        .all(|term| match (term.split_once("!="), term.split_once('=')) {
            (Some((name, value)), _) => label(name).as_deref() != Some(value),
            (None, Some((name, value))) => label(name).as_deref() == Some(value),
            (None, None) => label(term).is_some(),
        })
}

fn answer(method: &str, path: &str, selector: &[String], body: Option<Value>, objects: &mut Objects) -> (u16, Value) {
    let below = format!("{path}/");
    let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200});
    match (method, body) {
        ("GET", _) if path == "/version" => {
            let names = [
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ];
            let mut version = json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"});
            names.iter().for_each(|name| version[*name] = "".into());
            (200, version)
        }
        ("GET", _) if path.ends_with("/serviceaccounts/default") => (200, json!({"metadata": {"name": "default"}})),
        ("GET", _) if is_list(path) => {
            // Without a namespace, those of all namespaces are meant.
            let (group, kind) = path.rsplit_once('/').unwrap();
            let everywhere = !path.contains("/namespaces/");
            let items = objects.iter().filter(|(at, object)| {
                let of_list = at.strip_prefix(&below).is_some_and(|name| !name.contains('/'));
                let (list, _) = at.rsplit_once('/').unwrap();
                let is_meant = of_list || everywhere && list.starts_with(group) && list.ends_with(&format!("/{kind}"));
                is_meant && is_selected(object, selector)
            });
            let items: Vec<&Value> = items.map(|(_, object)| object).collect();
            (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
            )
        }
        ("GET", _) if objects.contains_key(path) => (200, objects[path].clone()),
        ("POST", Some(mut review)) if path.ends_with("/selfsubjectaccessreviews") => {
            review["status"] = json!({"allowed": true});
            (201, review)
        }
        ("POST", Some(object)) => {
            let at = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
            if objects.contains_key(&at) {
                return failure(409, "AlreadyExists", &at);
            }
            (201, store(objects, at, object))
        }
        ("PUT", Some(object)) if objects.contains_key(path) => {
            let versions = [&object, &objects[path]].map(|object| object["metadata"]["resourceVersion"].clone());
            match versions[0].is_null() || versions[0] == versions[1] {
                true => (200, store(objects, path.to_owned(), object)),
                false => failure(409, "Conflict", path),
            }
        }
        ("PATCH", Some(change)) if objects.contains_key(path) => {
            let mut object = objects[path].clone();
            merge(&mut object, change);
            (200, store(objects, path.to_owned(), object))
        }
        ("DELETE", _) if is_list(path) || objects.contains_key(path) => {
            // What is in a namespace goes with it, whatever its group.
            let name = path
                .strip_prefix("/api/v1/namespaces/")
                .filter(|name| !name.contains('/'));
            let within = name.map(|name| format!("/namespaces/{name}/"));
            objects.retain(|at, _| {
                at != path && !at.starts_with(&below) && !within.as_ref().is_some_and(|within| at.contains(within))
            });
            (200, done)
        }
        (_, _) => failure(404, "NotFound", &format!("{method} {path}")),
    }
}

/// Keeps an object under a version that no other has had.
fn store(objects: &mut Objects, at: String, mut object: Value) -> Value {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    object["metadata"]["resourceVersion"] = VERSION.fetch_add(1, Ordering::Relaxed).to_string().into();
    objects.insert(at, object.clone());
    object
}

/// As RFC 7386 says.
fn merge(object: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *object = change;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in change {
        match (object.as_object_mut().unwrap(), value) {
            (object, Value::Null) => drop(object.remove(&name)),
            (object, value) => merge(object.entry(name).or_insert(Value::Null), value),
        }
    }
}

fn failure(code: u16, reason: &str, what: &str) -> (u16, Value) {
    let message = format!("{what}: {reason}");
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message});
    (code, status)
}

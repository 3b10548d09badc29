//! As much of an API server as a run talks to that installs something: it keeps the objects that it is given.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The objects by their path.
type Objects = Arc<Mutex<BTreeMap<String, Value>>>;

pub(super) struct FakeApi {
    pub(super) url: String,
    objects: Objects,
    _served: tokio::task::JoinHandle<()>,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let shared = objects.clone();
        let served = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self {
            url,
            objects,
            _served: served,
        }
    }

    /// The paths of what there is, but for what is everywhere.
    pub(super) fn paths(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }
}

async fn serve(stream: TcpStream, objects: Objects) {
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
        let path = target.split('?').next().unwrap();
        let (status, answer) = answer(
            method,
            path,
            serde_json::from_slice(&body).ok(),
            &mut objects.lock().unwrap(),
        );
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

fn answer(method: &str, path: &str, body: Option<Value>, objects: &mut BTreeMap<String, Value>) -> (u16, Value) {
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
            let items = objects
                .iter()
                .filter(|(at, _)| at.strip_prefix(&below).is_some_and(|name| !name.contains('/')));
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
            let name = object["metadata"]["name"].as_str().unwrap();
            objects.insert(format!("{path}/{name}"), object.clone());
            (201, object)
        }
        ("DELETE", _) if is_list(path) || objects.contains_key(path) => {
            objects.retain(|at, _| at != path && !at.starts_with(&below));
            (200, done)
        }
        (_, _) => {
            let message = format!("{method} {path}: not found");
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": message});
            (404, status)
        }
    }
}

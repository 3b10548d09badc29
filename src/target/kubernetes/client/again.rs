//! Requests that are sent a second time, since their connection ended before there was an answer.
//!
//! An API server that has much to do closes connections that have a request under way. Whether that request was done nobody
//! can tell; those that may be done twice are asked again, so that no case breaks by it.

use http::{Method, Request, header};
use hyper_util::client::legacy::Error;
use kube::client::Body;
use std::time::Duration;
use tower::retry::Policy;

/// How long it is waited before a request is sent again.
const PAUSE: Duration = Duration::from_millis(100);

/// How many times more a request is sent.
#[derive(Clone)]
pub(super) struct Again(pub(super) u8);

impl<Answer> Policy<Request<Body>, Answer, Error> for Again {
    type Future = tokio::time::Sleep;

    fn retry(&mut self, request: &mut Request<Body>, result: &mut Result<Answer, Error>) -> Option<Self::Future> {
        let Err(error) = result else { return None };
        // That nothing listens is known at once, and is told.
        if error.is_connect() {
            return None;
        }
        self.0 = self.0.checked_sub(1)?;
        tracing::debug!(method = %request.method(), path = request.uri().path(), "asked the API server again: {error}");
        Some(tokio::time::sleep(PAUSE))
    }

    /// Only of a request that may be done twice. Deletions of pods name the one that they mean, and changes say what shall be;
    /// what is made would be made twice, and a command in a container would run twice.
    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let twice = [Method::GET, Method::DELETE, Method::PATCH].contains(request.method());
        if !twice || request.headers().contains_key(header::UPGRADE) {
            return None;
        }
        let mut copy = Request::new(request.body().try_clone()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::client;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
    use kube::{Client, Config};
    use rstest::rstest;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ANSWER: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","namespace":"shop"}}"#;

    /// A server that closes so many connections when it has read something, and answers on those after them; and how many
    /// connections there were.
    async fn closing(closed: usize) -> (Client, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = vec![0; 8192];
                let _ = stream.read(&mut read).await;
                if counted.fetch_add(1, Ordering::SeqCst) >= closed {
                    let length = ANSWER.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{ANSWER}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        let mut config = Config::new(url.parse().unwrap());
        config.default_namespace = "shop".to_owned();
        (client(config).unwrap(), taken)
    }

    #[rstest]
    #[case::reading("get")]
    #[case::deleting("delete")]
    #[case::changing("patch")]
    #[tokio::test]
    async fn what_may_be_done_twice_is_asked_again(#[case] what: &str) {
        let (client, taken) = closing(2).await;
        let api = Api::<ConfigMap>::default_namespaced(client);
        let change = serde_json::json!({"data": {"a": "b"}});
        let answer = match what {
            "get" => api.get("m").await.map(drop),
            "delete" => api.delete("m", &DeleteParams::default()).await.map(drop),
            _ => {
                let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
                api.patch("m", &how, &patch).await.map(drop)
            }
        };
        answer.unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_would_be_made_twice_is_not_asked_again() {
        let (client, taken) = closing(1).await;
        let api = Api::<ConfigMap>::default_namespaced(client);
        let made = api.create(&PostParams::default(), &ConfigMap::default()).await;
        assert!(made.is_err());
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_command_in_a_container_does_not_run_twice() {
        let (client, taken) = closing(1).await;
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client);
        let ran = pods.exec("p", ["true"], &kube::api::AttachParams::default()).await;
        assert!(ran.is_err());
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_server_that_goes_on_closing_is_told_of() {
        let (client, taken) = closing(usize::MAX).await;
        let error = Api::<ConfigMap>::default_namespaced(client).get("m").await.unwrap_err();
        assert_eq!(
            super::super::chain(&error),
            "client error (SendRequest): connection closed before message completed"
        );
        assert_eq!(taken.load(Ordering::SeqCst), 3);
    }
}

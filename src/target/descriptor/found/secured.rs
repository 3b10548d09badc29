//! TLS of servers, as far as their pods show it: that they speak it, and in which Secret or ConfigMap the certificates are.

use super::{Server, port, quoted};
use k8s_openapi::api::core::v1::{Container, KeyToPath, Volume};

/// What a container's settings say, by whichever way a setting may be made there.
pub(super) struct Settings<'a> {
    /// The server's container.
    pub(super) container: &'a Container,
    /// The redis.conf that is among its volumes.
    pub(super) conf: Option<&'a str>,
}

impl Settings<'_> {
    /// The value of a directive: of the server's arguments, or of its redis.conf.
    fn said(&self, directive: &str) -> Option<&str> {
        let words = self.container.command.iter().flatten();
        let words = words.chain(self.container.args.iter().flatten());
        let words: Vec<&str> = words.flat_map(|word| word.split_whitespace()).collect();
        let argument = format!("--{directive}");
        let of_arguments = words.windows(2).find(|pair| pair[0] == argument).map(|pair| pair[1]);
        let of_conf = self.conf.and_then(|conf| {
            let lines = conf
                .lines()
                .filter_map(|line| line.trim().split_once(char::is_whitespace));
            let own = lines.filter(|(name, _)| name.eq_ignore_ascii_case(directive));
            own.map(|(_, value)| value.trim()).next_back()
        });
        Some(of_arguments.or(of_conf)?.trim_matches(['"', '\'']))
    }

    /// The value of a directive, also where an environment variable that is named like it says it, as images have them
    /// (`REDIS_TLS_CA_FILE`).
    fn value(&self, directive: &str, variable: &str) -> Option<String> {
        let of_environment = || {
            let mut variables = self.container.env.iter().flatten();
            let own = variables.find(|own| own.name.ends_with(variable))?;
            Some(own.value.as_deref()?.trim_matches(['"', '\'']))
        };
        Some(self.said(directive).or_else(of_environment)?.to_owned())
    }

    /// Whether the servers speak TLS on their port for clients: they may have one with TLS beside it.
    fn speak(&self) -> bool {
        let tls_port = self.value("tls-port", "TLS_PORT_NUMBER").filter(|port| port != "0");
        let is_off = match self.value("tls", "TLS_ENABLED") {
            Some(said) => !["yes", "true", "1"].contains(&said.as_str()),
            None => tls_port.is_none(),
        };
        let here = || tls_port.is_none_or(|tls_port| tls_port == port(self.container).to_string());
        !is_off && (here() || self.said("port") == Some("0"))
    }
}

/// What the description says of TLS; nothing where the servers do not speak it.
pub(super) fn describe(server: &Server<'_>, settings: &Settings<'_>) -> String {
    if !settings.speak() {
        return String::new();
    }
    let spec = server.pod.spec.as_ref();
    let volumes = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let entry = |directive: &str, variable: &str| {
        let path = settings.value(directive, variable)?;
        source(&path, server.container, volumes)
    };
    let ca = entry("tls-ca-cert-file", "TLS_CA_FILE");
    let asks = settings.value("tls-auth-clients", "TLS_AUTH_CLIENTS");
    let asks = !matches!(asks.as_deref(), Some("no" | "false" | "optional"));
    let own = entry("tls-cert-file", "TLS_CERT_FILE").zip(entry("tls-key-file", "TLS_KEY_FILE"));
    let mut text = "# The port for clients speaks TLS.\n".to_owned();
    let (mark, ca) = match &ca {
        Some(ca) => ("", ca.as_str()),
        None => {
            text.push_str("# Where its CA is was not seen: say it here, and take away the marks before the lines.\n");
            (
                "# ",
                "{secret: {name: NAME, key: ca.crt}}   # or configMap: {name, key}, or file: PATH",
            )
        }
    };
    text.push_str(&format!("{mark}tls:\n{mark}  ca: {ca}\n"));
    match (asks, own) {
        (false, _) => {}
        (true, Some((certificate, key))) => text.push_str(&format!(
            "{mark}  # Clients must show a certificate too. This is the servers' own.\n{mark}  certificate: {certificate}\n{mark}  key: {key}\n"
        )),
        (true, None) => text.push_str(&format!(
            "{mark}  # Clients must show a certificate too. Which one the suite may use was not seen:\n\
             #   certificate: {{secret: {{name: NAME, key: tls.crt}}}}\n#   key: {{secret: {{name: NAME, key: tls.key}}}}\n"
        )),
    }
    text.push_str(&format!(
        "{mark}  # No Secret is read for this, so it is not known what names the certificates are for. Stricter: `addresses`, or\n\
         {mark}  # {{name: \"{{pod}}.SERVICE\"}}.\n{mark}  serverNames: unchecked\n"
    ));
    text
}

/// The entry of a Secret or ConfigMap that a file in a container is: `{secret: {name: …, key: …}}`.
fn source(path: &str, container: &Container, volumes: &[Volume]) -> Option<String> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.into_iter().find_map(|mount| {
        let folder = mount.mount_path.trim_end_matches('/');
        let rest = path.strip_prefix(folder)?.trim_start_matches('/');
        let part = mount.sub_path.as_deref().unwrap_or_default().trim_matches('/');
        let inside = [part, rest]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let key = |items: &Option<Vec<KeyToPath>>| match items {
            Some(items) => items
                .iter()
                .find(|item| item.path == inside)
                .map(|item| item.key.clone()),
            None => Some(inside.clone()),
        };
        let secret = volume.secret.as_ref().and_then(|of| {
            let name = of.secret_name.as_ref()?;
            Some(("secret", name.clone(), key(&of.items)?))
        });
        let map = || {
            volume
                .config_map
                .as_ref()
                .and_then(|of| Some(("configMap", of.name.clone(), key(&of.items)?)))
        };
        let (kind, name, key) = secret.or_else(map)?;
        Some(format!(
            "{{{kind}: {{name: {}, key: {}}}}}",
            quoted(&name),
            quoted(&key)
        ))
    })
}

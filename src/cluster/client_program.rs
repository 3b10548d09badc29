//! The command-line clients that come with servers: what they are called, and where they find a password.

/// What they are called: each project has renamed its own.
pub const NAMES: [&str; 3] = ["redis-cli", "valkey-cli", "redict-cli"];

/// The environment variables in which they look for the password. Each reads its own, whatever name it was started by:
/// packages have links from the old names.
pub const PASSWORDS: [&str; 3] = ["REDISCLI_AUTH", "VALKEYCLI_AUTH", "REDICTCLI_AUTH"];

/// Sets the variable `client` of a shell to the one that is there, or ends with status 127.
pub const FIND: &str = "client=$(command -v redis-cli || command -v valkey-cli || command -v redict-cli) || \
                        { echo 'neither redis-cli nor valkey-cli nor redict-cli' >&2; exit 127; }\n";

/// The environment that gives them a password, where there is one.
pub fn environment<T: Copy>(password: Option<T>) -> Vec<(&'static str, T)> {
    password
        .into_iter()
        .flat_map(|password| PASSWORDS.map(|name| (name, password)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_looks_for_each() {
        for name in NAMES {
            assert!(FIND.contains(&format!("command -v {name}")), "{name}");
        }
    }

    #[test]
    fn each_finds_its_password() {
        let project = |name: &str| name.split('-').next().unwrap_or_default().to_uppercase();
        let of_programs = NAMES.map(|name| format!("{}CLI_AUTH", project(name)));
        assert_eq!(PASSWORDS.map(str::to_owned), of_programs);
        assert_eq!(environment(Some(1)).len(), NAMES.len());
        assert!(environment::<u8>(None).is_empty());
    }
}

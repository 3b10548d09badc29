//! The parameters of a deployment, each a patch on the fields that it names.

use super::{Manifest, ManifestError};
use crate::target::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a user may set of a manifest without writing a patch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Parameters {
    /// The server's image: `image` of the server's container, and of those that have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `imagePullPolicy` of the server's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<String>,
    /// `storageClassName` of every volume claim template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// `replicas` of the StatefulSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The processor time that the server's container asks for: `resources.requests.cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<String>,
    /// The password: the entry of the Secret that the description names. Never part of a file.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// The fields that parameters are for.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The server's container.
    pub container: &'a str,
    /// The Secret and its entry that hold the password, where they do.
    pub secret: Option<(&'a str, &'a str)>,
}

impl Parameters {
    /// These parameters, with those of `over` in their place where it has any.
    pub fn overridden_by(&self, over: &Self) -> Self {
        Self {
            image: over.image.clone().or_else(|| self.image.clone()),
            pull_policy: over.pull_policy.clone().or_else(|| self.pull_policy.clone()),
            storage_class: over.storage_class.clone().or_else(|| self.storage_class.clone()),
            replicas: over.replicas.or(self.replicas),
            cpu_request: over.cpu_request.clone().or_else(|| self.cpu_request.clone()),
            password: over.password.clone().or_else(|| self.password.clone()),
        }
    }
}

impl Manifest {
    /// Sets the parameters that are given.
    ///
    /// # Errors
    /// When the manifest has no field that a given parameter is for.
    pub fn set(&mut self, parameters: &Parameters, places: Places<'_>) -> Result<(), ManifestError> {
        let Parameters {
            image,
            pull_policy,
            storage_class,
            replicas,
            cpu_request,
            password,
        } = parameters;
        let container = places.container;
        if let Some(image) = image {
            self.set_image(container, image)?;
        }
        if let Some(policy) = pull_policy {
            self.each_container(container, &["imagePullPolicy"], &policy.as_str().into())?;
        }
        if let Some(cpu) = cpu_request {
            self.each_container(container, &["resources", "requests", "cpu"], &cpu.as_str().into())?;
        }
        if let Some(class) = storage_class {
            self.set_storage_class(class)?;
        }
        if let Some(replicas) = replicas {
            self.set_replicas(*replicas)?;
        }
        if let Some(password) = password {
            self.set_password(password, places)?;
        }
        Ok(())
    }

    fn each_container(&mut self, name: &str, field: &[&str], value: &Value) -> Result<(), ManifestError> {
        let mut found = false;
        for document in &mut self.documents {
            let containers = document.value.pointer_mut("/spec/template/spec/containers");
            for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
                if container["name"] == name && set_field(container, field, value) {
                    found = true;
                }
            }
        }
        if found {
            return Ok(());
        }
        let field = field.join(".");
        Err(self.missing(format!("no container is named {name}, so its {field} cannot be set")))
    }

    /// A container beside the server's that has its image runs programs of it, and so goes on having it.
    fn set_image(&mut self, name: &str, image: &str) -> Result<(), ManifestError> {
        let same: Vec<Value> = self
            .containers()
            .filter(|container| container["name"] == name)
            .map(|container| container["image"].clone())
            .collect();
        self.each_container(name, &["image"], &image.into())?;
        for container in self.containers() {
            if !container["image"].is_null() && same.contains(&container["image"]) {
                container["image"] = image.into();
            }
        }
        Ok(())
    }

    fn containers(&mut self) -> impl Iterator<Item = &mut Value> {
        let lists = self
            .documents
            .iter_mut()
            .filter_map(|document| document.value.pointer_mut("/spec/template/spec/containers"));
        lists.filter_map(Value::as_array_mut).flatten()
    }

    fn set_storage_class(&mut self, class: &str) -> Result<(), ManifestError> {
        let mut found = false;
        for document in &mut self.documents {
            let claims = document.value.pointer_mut("/spec/volumeClaimTemplates");
            for claim in claims.and_then(Value::as_array_mut).into_iter().flatten() {
                found |= set_field(claim, &["spec", "storageClassName"], &class.into());
            }
        }
        if found {
            return Ok(());
        }
        Err(self.missing("there is no volumeClaimTemplates whose storageClassName could be set".to_owned()))
    }

    fn set_replicas(&mut self, replicas: u32) -> Result<(), ManifestError> {
        let mut found = false;
        for document in &mut self.documents {
            if document.kind() == "StatefulSet" {
                found |= set_field(&mut document.value, &["spec", "replicas"], &replicas.into());
            }
        }
        if found {
            return Ok(());
        }
        Err(self.missing("there is no StatefulSet whose replicas could be set".to_owned()))
    }

    fn set_password(&mut self, password: &Secret, places: Places<'_>) -> Result<(), ManifestError> {
        let Some((name, key)) = places.secret else {
            return Err(self.missing(
                "its password is not in a Secret that the target's description names, so it cannot be set".to_owned(),
            ));
        };
        let document = self
            .documents
            .iter_mut()
            .find(|document| document.kind() == "Secret" && document.name() == name);
        let Some(document) = document else {
            return Err(self.missing(format!("there is no Secret/{name} whose {key} could be set")));
        };
        // The server would let stringData win, but one place for one value is clearer.
        if let Some(data) = document.value.pointer_mut("/data").and_then(Value::as_object_mut) {
            data.remove(key);
        }
        set_field(&mut document.value, &["stringData", key], &password.expose().into());
        Ok(())
    }
}

/// Sets a field of an object, making the objects on the way.
fn set_field(object: &mut Value, path: &[&str], value: &Value) -> bool {
    let mut here = object;
    for step in path {
        if here.is_null() {
            *here = Value::Object(serde_json::Map::new());
        }
        match here {
            Value::Object(fields) => here = fields.entry(*step).or_insert(Value::Null),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return false,
        }
    }
    *here = value.clone();
    true
}

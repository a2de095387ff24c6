//! The list of operations that the service is measured by: method, path, name and beta headers of each,
//! taken from a contract file and committed as `xtask/contract/operations.json`. Names only; schemas
//! stay with the SDK, which is the judge of answers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::workspace::Workspace;

const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];

/// Where the list is kept.
pub(crate) fn operations_file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("xtask/contract/operations.json")
}

/// Writes the list of operations from a contract.
pub(crate) fn refresh(contract: &Path) -> Result<()> {
    let text = std::fs::read_to_string(contract).with_context(|| format!("could not read {}", contract.display()))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", contract.display()))?;
    let operations = operations(&document).with_context(|| format!("in {}", contract.display()))?;
    let target = operations_file(&Workspace::find()?);
    let lines: Vec<String> = operations.iter().map(|operation| format!("  {operation}")).collect();
    std::fs::write(&target, format!("[\n{}\n]\n", lines.join(",\n")))
        .with_context(|| format!("could not write {}", target.display()))?;
    println!("{} operations written to {}", operations.len(), target.display());
    Ok(())
}

fn operations(document: &Value) -> Result<Vec<Value>> {
    let paths = document["paths"]
        .as_object()
        .context("the contract has no object `paths`")?;
    let mut operations = Vec::new();
    for (path, methods) in paths {
        let methods = methods
            .as_object()
            .with_context(|| format!("the path {path} holds no object"))?;
        for (method, operation) in methods {
            if !METHODS.contains(&method.as_str()) {
                bail!("the path {path} has {method}, which is not a method");
            }
            let name = operation["operationId"]
                .as_str()
                .with_context(|| format!("{method} {path} has no operationId"))?;
            let beta = operation.get("x-anthropic-beta").cloned().unwrap_or_else(|| json!([]));
            operations.push(json!({
                "method": method.to_uppercase(),
                "path": path,
                "operation": name,
                "beta": beta,
            }));
        }
    }
    if operations.is_empty() {
        bail!("the contract has no operations");
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_keeps_its_name_and_headers() {
        let document = json!({"paths": {"/v1/x/{x_id}": {"get": {
            "operationId": "X.retrieve", "x-anthropic-beta": ["x-2026-01-01"], "responses": {}
        }}}});
        let expected =
            json!({"method": "GET", "path": "/v1/x/{x_id}", "operation": "X.retrieve", "beta": ["x-2026-01-01"]});
        assert_eq!(operations(&document).unwrap(), [expected]);
    }

    #[test]
    fn a_contract_without_operations_is_refused() {
        assert!(operations(&json!({"paths": {}})).is_err());
        assert!(operations(&json!({"paths": {"/v1/x": {"get": {}}}})).is_err());
    }
}

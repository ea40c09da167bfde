//! `/openapi.json`: the endpoints of a topology as OpenAPI 3.1 describes them, made of the file alone.

use std::collections::BTreeMap;

use serde_json::json;

use crate::endpoints::EndpointConfig;
use crate::model::{Field, Json, Shape};

/// Where it is served, unless an endpoint has that path.
pub(super) const PATH: &str = "/openapi.json";

/// The description of a topology's endpoints.
pub(super) fn document(name: &str, endpoints: &BTreeMap<String, EndpointConfig>) -> Json {
    let mut paths = serde_json::Map::new();
    for (name, endpoint) in endpoints {
        let path = paths.entry(endpoint.route.path.clone()).or_insert_with(|| json!({}));
        path[endpoint.route.method.name().to_ascii_lowercase()] = operation(name, endpoint);
    }
    let problem = json!({
        "type": "object",
        "required": ["error", "request_id"],
        "properties": {
            "error": { "type": "string" },
            "request_id": { "type": "string" },
            "field": { "type": "string" },
            "accepted": { "const": "unknown" }
        }
    });
    json!({
        "openapi": "3.1.0",
        "info": { "title": name, "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": { "Problem": problem },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "basic": { "type": "http", "scheme": "basic" }
            }
        }
    })
}

fn operation(name: &str, endpoint: &EndpointConfig) -> Json {
    let text = json!({ "type": "string" });
    let in_path = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": text });
    let mut parameters: Vec<Json> = endpoint.route.params().map(in_path).collect();
    let mut responses = serde_json::Map::new();
    responses.insert("default".into(), problem("What is wrong, in words."));
    let mut operation = json!({ "operationId": name, "summary": endpoint.label() });
    if endpoint.reads_body() {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": 257 },
            "description": "The same key is the same request."
        }));
        let schema = endpoint.schema.as_ref().map_or_else(|| json!({}), schema);
        operation["requestBody"] = json!({
            "required": endpoint.schema.is_some(),
            "content": {
                "application/json": { "schema": schema },
                "application/x-www-form-urlencoded": { "schema": { "type": "object" } }
            }
        });
        responses.insert("422".into(), problem("A field is wrong: `field` names it."));
    }
    if endpoint.request.is_some() {
        responses.insert("503".into(), problem("Nothing was done, and will not be: ask again."));
        responses.insert("504".into(), problem("It may have been accepted: ask again with the same key."));
    }
    if let Some(respond) = &endpoint.respond {
        let status = respond.status.text().trim();
        let code = if status.parse::<u16>().is_ok() { status } else { "2XX" };
        let content = json!({ "application/json": { "schema": {} } });
        responses.insert(
            code.to_owned(),
            json!({ "description": "The broker has the message.", "content": content }),
        );
    }
    if let Some(auth) = &endpoint.auth {
        let kinds = [("bearer", auth.bearer.is_empty()), ("basic", auth.basic.is_empty())];
        let allowed = kinds.iter().filter(|(_, empty)| !empty).map(|(kind, _)| json!({ *kind: [] }));
        operation["security"] = allowed.collect();
        responses.insert("401".into(), problem("No such caller."));
    }
    operation["parameters"] = parameters.into();
    operation["responses"] = responses.into();
    operation
}

fn problem(description: &str) -> Json {
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// A shape as JSON schema.
fn schema(field: &Field) -> Json {
    let schema = match &field.shape {
        Shape::Any => return json!({}),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer => json!({ "type": "integer" }),
        Shape::Number => json!({ "type": "number" }),
        Shape::String => json!({ "type": "string" }),
        Shape::Text => json!({ "type": "string", "minLength": 1 }),
        Shape::Timestamp => json!({ "type": "string", "format": "date-time" }),
        Shape::Array(item) => json!({ "type": "array", "items": schema(item) }),
        Shape::Object { fields, rest } => {
            let required = fields.iter().filter(|(_, f)| !f.optional && f.shape != Shape::Any);
            let required: Vec<&str> = required.map(|(name, _)| name.as_str()).collect();
            let properties: serde_json::Map<String, Json> =
                fields.iter().map(|(name, field)| (name.clone(), schema(field))).collect();
            let mut object = json!({ "type": "object", "required": required, "properties": properties });
            if let Some(rest) = rest {
                object["additionalProperties"] = schema(rest);
            }
            object
        }
    };
    match field.optional {
        true => json!({ "anyOf": [schema, { "type": "null" }] }),
        false => schema,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::Route;

    #[test]
    fn an_endpoint_is_described_by_its_settings() {
        let mut endpoint = EndpointConfig::new(Route::new("POST /shops/{shop}/orders").expect("a route"));
        let shape = json!({"email": "text", "note": "string?", "lines": [{"n": "integer"}]});
        endpoint.schema = Some(serde_json::from_value(shape).expect("a shape"));
        endpoint.respond = Some(crate::endpoints::RespondConfig::default());
        let found = document("shop", &BTreeMap::from([("order".to_owned(), endpoint)]));
        let order = &found["paths"]["/shops/{shop}/orders"]["post"];
        assert_eq!(order["operationId"], "order");
        assert_eq!(order["parameters"][0]["name"], "shop");
        let body = &order["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(body["required"], json!(["email", "lines"]));
        assert_eq!(body["properties"]["email"], json!({"type": "string", "minLength": 1}));
        assert_eq!(body["properties"]["lines"]["items"]["properties"]["n"], json!({"type": "integer"}));
        let codes: Vec<&String> = order["responses"].as_object().expect("an object").keys().collect();
        assert_eq!(codes, ["default", "422", "202"]);
    }
}

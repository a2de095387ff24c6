//! The model of an agent as a client sends it, in its three forms, and what becomes of it.

use std::fmt;

use outwork_wire::agent::{Effort, ModelConfig, Speed};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::fields::{check_length, given};
use crate::error::ApiError;
use crate::http::shortened;

const MAX_MODEL_ID: usize = 256;

/// A model as a client sends it: its id alone, or an object.
#[derive(Clone, Debug)]
pub(crate) struct ModelParams {
    id: String,
    effort: Option<Option<EffortParams>>,
    speed: Option<Speed>,
    inference_geo: Option<String>,
}

/// An effort as a client sends it: a word, or an object with the word as its type.
#[derive(Clone, Copy, Debug)]
struct EffortParams(Effort);

/// Checks a model and fills in the defaults. `stored` is what an update replaces: its effort stays if none is sent.
pub(crate) fn resolve_model(
    params: &ModelParams,
    stored: Option<&ModelConfig>,
    path: &str,
) -> Result<ModelConfig, ApiError> {
    check_length(&format!("{path}.id"), &params.id, 1..=MAX_MODEL_ID)?;
    if params.id.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "{path}.id: must not have control characters"
        )));
    }
    if params.inference_geo.is_some() {
        return Err(ApiError::invalid(format!(
            "{path}.inference_geo: is not supported by this server; leave it out, the model provider decides"
        )));
    }
    Ok(ModelConfig {
        id: params.id.clone(),
        effort: match params.effort {
            Some(effort) => effort.map(|e| e.0),
            None => stored.and_then(|s| s.effort),
        },
        inference_geo: None,
        speed: params.speed,
    })
}

impl<'de> Deserialize<'de> for ModelParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            id: String,
            #[serde(default, deserialize_with = "given")]
            effort: Option<Option<EffortParams>>,
            #[serde(default)]
            speed: Option<Speed>,
            #[serde(default)]
            inference_geo: Option<String>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ModelParams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model's id or an object with `id`")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<ModelParams, E> {
                Ok(ModelParams {
                    id: id.to_owned(),
                    effort: None,
                    speed: None,
                    inference_geo: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelParams, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ModelParams {
                    id: fields.id,
                    effort: fields.effort,
                    speed: fields.speed,
                    inference_geo: fields.inference_geo,
                })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for EffortParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = EffortParams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("low, medium, high, xhigh or max, or an object with one of them as `type`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<EffortParams, E> {
                [
                    Effort::Low {},
                    Effort::Medium {},
                    Effort::High {},
                    Effort::Xhigh {},
                    Effort::Max {},
                ]
                .into_iter()
                .find(|effort| effort.as_str() == word)
                .map(EffortParams)
                .ok_or_else(|| E::invalid_value(de::Unexpected::Str(&shortened(word)), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EffortParams, A::Error> {
                Effort::deserialize(MapAccessDeserializer::new(map)).map(EffortParams)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_model_has_three_forms() {
        let model = |value: Value, stored: Option<&ModelConfig>| {
            let params: ModelParams = serde_json::from_value(value).map_err(|e| e.to_string())?;
            resolve_model(&params, stored, "model").map_err(|e| e.message)
        };
        let plain = model(json!("m"), None).unwrap();
        assert_eq!((plain.id.as_str(), plain.effort, plain.speed), ("m", None, None));
        let word = model(json!({ "id": "m", "effort": "xhigh", "speed": "fast" }), None).unwrap();
        assert_eq!((word.effort, word.speed), (Some(Effort::Xhigh {}), Some(Speed::Fast)));
        let object = model(json!({ "id": "m", "effort": { "type": "low" } }), None).unwrap();
        assert_eq!(object.effort, Some(Effort::Low {}));

        assert_eq!(model(json!("n"), Some(&word)).unwrap().effort, Some(Effort::Xhigh {}));
        assert_eq!(model(json!("n"), Some(&word)).unwrap().speed, None);
        assert_eq!(
            model(json!({ "id": "n", "effort": null }), Some(&word)).unwrap().effort,
            None
        );

        assert!(
            model(json!({ "id": "m", "inference_geo": "eu" }), None)
                .unwrap_err()
                .starts_with("model.inference_geo")
        );
        assert!(model(json!(""), None).unwrap_err().starts_with("model.id"));
        for wrong in [
            json!(1),
            json!({ "effort": "low" }),
            json!({ "id": "m", "effort": "huge" }),
            json!({ "id": "m", "effort": { "type": "low", "x": 1 } }),
            json!({ "id": "m", "speed": "slow" }),
            json!({ "id": "m", "temperature": 1 }),
        ] {
            assert!(model(wrong.clone(), None).is_err(), "{wrong}");
        }
    }
}

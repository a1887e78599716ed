//! `glossator_core::rules` for Python.

use std::sync::Arc;

use glossator_core::rules::{Check, Checker, Corpus, Learner, OfIndex, Options, Rule, Unit};
use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{CoreError, CoreResult, InputError, contiguous};
use crate::index::Index;

/// Learns a rule for each latent from the explain side of an index.
#[pyclass(module = "glossator._core", frozen)]
pub struct RuleLearner {
    index: Py<Index>,
    learner: Learner,
}

#[pymethods]
impl RuleLearner {
    /// Lay the explain side out for learning; the arguments are those of `learn_rules`.
    #[new]
    #[pyo3(signature = (index: "Index", *, max_tokens: "int", max_context_tokens: "int",
        reach: "int", look_ahead: "bool", min_gain: "float") -> "RuleLearner")]
    fn new(
        py: Python<'_>,
        index: Py<Index>,
        max_tokens: usize,
        max_context_tokens: usize,
        reach: u32,
        look_ahead: bool,
        min_gain: f64,
    ) -> CoreResult<Self> {
        let options = Options {
            max_tokens,
            max_context_tokens,
            reach,
            look_ahead,
            min_gain,
        };
        let core = &index.get().0;
        let learner = py.detach(|| {
            let corpus = Arc::new(Corpus::of(core)?);
            Ok::<_, glossator_core::Error>(Learner::new(&corpus, options))
        })?;
        Ok(Self { index, learner })
    }

    /// One rule a latent, in JSON; None for a latent that is silent on the explain side.
    #[pyo3(signature = (latents: "NDArray[np.uint32]") -> "list[str | None]")]
    fn learn(
        &self,
        py: Python<'_>,
        latents: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<Vec<Option<String>>> {
        let latents = contiguous("latents", latents.as_slice())?;
        let index = OfIndex::new(&self.index.get().0);
        let rules = py
            .detach(|| self.learner.learn(&index, latents))
            .map_err(CoreError::from)?;
        let json = |rule: Option<Rule>| {
            let text = rule.map(|rule| serde_json::to_string(&rule)).transpose();
            text.map_err(|e| InputError::new_err(format!("a rule cannot be written: {e}")))
        };
        rules.into_iter().map(json).collect()
    }
}

/// Counts what rules get right and wrong on every eligible window of the score side.
#[pyclass(module = "glossator._core", frozen)]
pub struct RuleChecker {
    index: Py<Index>,
    checker: Checker,
}

#[pymethods]
impl RuleChecker {
    /// Collect where each token stands on the score side.
    #[new]
    #[pyo3(signature = (index: "Index") -> "RuleChecker")]
    fn new(py: Python<'_>, index: Py<Index>) -> CoreResult<Self> {
        let core = &index.get().0;
        let checker = py.detach(|| {
            let corpus = Arc::new(Corpus::of(core)?);
            Ok::<_, glossator_core::Error>(Checker::new(&corpus))
        })?;
        Ok(Self { index, checker })
    }

    /// Eligible windows of the score side.
    #[getter]
    fn windows(&self) -> u64 {
        self.checker.windows()
    }

    /// Unmasked tokens in them.
    #[getter]
    fn tokens(&self) -> u64 {
        self.checker.tokens()
    }

    /// Documents with a token in them.
    #[getter]
    fn documents(&self) -> u64 {
        self.checker.documents()
    }

    /// Outcomes of rule `i` (JSON) for latent `i`, by column.
    ///
    /// For each unit, `window` and `token`: `tp`, `fp`, `fn`, `tn`; the sums over documents of
    /// the products of two of the first three (`tp_tp` to `fp_fn`); and the documents in which
    /// something is predicted, active, or either. Then `decile_windows` and `decile_hits`, ten
    /// values a rule: the latent's windows of that decile, and those in which the rule fires.
    #[pyo3(signature = (latents: "NDArray[np.uint32]", rules: "list[str]")
        -> "dict[str, NDArray[np.uint64]]")]
    fn check<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
        rules: Vec<String>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let latents = contiguous("latents", latents.as_slice())?;
        if latents.len() != rules.len() {
            let (n, m) = (latents.len(), rules.len());
            return Err(InputError::new_err(format!(
                "{n} latents and {m} rules: give one rule a latent"
            )));
        }
        let rules = rules
            .iter()
            .enumerate()
            .map(|(i, text)| {
                serde_json::from_str(text)
                    .map_err(|e| InputError::new_err(format!("`rules[{i}]` is no rule: {e}")))
            })
            .collect::<PyResult<Vec<Rule>>>()?;
        let index = OfIndex::new(&self.index.get().0);
        let checks = py
            .detach(|| self.checker.check(&index, latents, &rules))
            .map_err(CoreError::from)?;
        columns(py, &checks)
    }
}

type Field = (&'static str, fn(&Unit) -> u64);

const FIELDS: [Field; 13] = [
    ("tp", |unit| unit.tp),
    ("fp", |unit| unit.fp),
    ("fn", |unit| unit.r#fn),
    ("tn", |unit| unit.tn),
    ("tp_tp", |unit| unit.tp_tp),
    ("fp_fp", |unit| unit.fp_fp),
    ("fn_fn", |unit| unit.fn_fn),
    ("tp_fp", |unit| unit.tp_fp),
    ("tp_fn", |unit| unit.tp_fn),
    ("fp_fn", |unit| unit.fp_fn),
    ("documents_predicted", |unit| unit.documents_predicted),
    ("documents_actual", |unit| unit.documents_actual),
    ("documents_any", |unit| unit.documents_any),
];

fn columns<'py>(py: Python<'py>, checks: &[Check]) -> PyResult<Bound<'py, PyDict>> {
    let columns = PyDict::new(py);
    for (name, field) in FIELDS {
        let window: Vec<u64> = checks.iter().map(|check| field(&check.window)).collect();
        let token: Vec<u64> = checks.iter().map(|check| field(&check.token)).collect();
        columns.set_item(format!("window_{name}"), window.into_pyarray(py))?;
        columns.set_item(format!("token_{name}"), token.into_pyarray(py))?;
    }
    let shape = [checks.len(), glossator_core::rules::DECILES];
    let windows: Vec<u64> = checks
        .iter()
        .flat_map(|check| check.decile_windows)
        .collect();
    let hits: Vec<u64> = checks.iter().flat_map(|check| check.decile_hits).collect();
    columns.set_item("decile_windows", windows.into_pyarray(py).reshape(shape)?)?;
    columns.set_item("decile_hits", hits.into_pyarray(py).reshape(shape)?)?;
    Ok(columns)
}

//! Rules counted on the whole score side.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Activity, Corpus, Marks, Places, Rule, SCORE};

/// How many rank deciles a latent's windows are divided into.
pub const DECILES: usize = 10;

/// Outcomes of one rule in one unit (windows or tokens), with what the variance over documents
/// needs: sums over documents of the products of their outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Unit {
    /// Predicted and active.
    pub tp: u64,
    /// Predicted, not active.
    pub fp: u64,
    /// Active, not predicted.
    pub r#fn: u64,
    /// Neither.
    pub tn: u64,
    /// Σ tp² over documents.
    pub tp_tp: u64,
    /// Σ fp² over documents.
    pub fp_fp: u64,
    /// Σ fn² over documents.
    pub fn_fn: u64,
    /// Σ tp·fp over documents.
    pub tp_fp: u64,
    /// Σ tp·fn over documents.
    pub tp_fn: u64,
    /// Σ fp·fn over documents.
    pub fp_fn: u64,
    /// Documents in which something is predicted.
    pub documents_predicted: u64,
    /// Documents in which something is active.
    pub documents_actual: u64,
    /// Documents in which something is predicted or active.
    pub documents_any: u64,
}

impl Unit {
    fn from_documents(tallies: &[[u32; 3]], units: u64) -> Self {
        let mut unit = Self::default();
        for tally in tallies {
            let [tp, fp, missed] = tally.map(u64::from);
            unit.tp += tp;
            unit.fp += fp;
            unit.r#fn += missed;
            unit.tp_tp += tp * tp;
            unit.fp_fp += fp * fp;
            unit.fn_fn += missed * missed;
            unit.tp_fp += tp * fp;
            unit.tp_fn += tp * missed;
            unit.fp_fn += fp * missed;
            unit.documents_predicted += u64::from(tp + fp > 0);
            unit.documents_actual += u64::from(tp + missed > 0);
            unit.documents_any += u64::from(tp + fp + missed > 0);
        }
        unit.tn = units - unit.tp - unit.fp - unit.r#fn;
        unit
    }
}

/// What a rule got right and wrong on the score side.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Check {
    /// Per window: predicted if the rule fires on any of its tokens, active if the latent is.
    pub window: Unit,
    /// Per unmasked token.
    pub token: Unit,
    /// Windows of each rank decile in which the latent is active.
    pub decile_windows: [u64; DECILES],
    /// Those of them in which the rule fires.
    pub decile_hits: [u64; DECILES],
}

/// Runs rules on every usable window of the score side.
///
/// Building it costs one pass over the corpus; a check then costs the occurrences of the rule's
/// tokens and the latent's postings.
#[derive(Debug)]
pub struct Checker {
    corpus: Arc<Corpus>,
    places: Places,
    windows: u64,
    tokens: u64,
    documents: u64,
}

/// Per-document outcomes, zero between uses.
#[derive(Debug)]
struct Tally {
    outcomes: Vec<[u32; 3]>,
    touched: Vec<u32>,
}

const TP: usize = 0;
const FP: usize = 1;
const FN: usize = 2;

impl Tally {
    fn add(&mut self, document: u32, outcome: usize) {
        let tally = &mut self.outcomes[document as usize];
        if *tally == [0; 3] {
            self.touched.push(document);
        }
        tally[outcome] += 1;
    }

    /// Counts two ascending lists against each other.
    fn compare(&mut self, predicted: &[u32], actual: &[u32], document: impl Fn(u32) -> u32) {
        let (mut p, mut a) = (0, 0);
        while p < predicted.len() || a < actual.len() {
            match (predicted.get(p), actual.get(a)) {
                (Some(&here), Some(&there)) if here == there => {
                    self.add(document(here), TP);
                    p += 1;
                    a += 1;
                }
                (Some(&here), other) if other.is_none_or(|&there| here < there) => {
                    self.add(document(here), FP);
                    p += 1;
                }
                (_, Some(&there)) => {
                    self.add(document(there), FN);
                    a += 1;
                }
                (_, None) => break,
            }
        }
    }

    fn take(&mut self, units: u64) -> Unit {
        let tallies: Vec<_> = self
            .touched
            .iter()
            .map(|&document| self.outcomes[document as usize])
            .collect();
        for &document in &self.touched {
            self.outcomes[document as usize] = [0; 3];
        }
        self.touched.clear();
        Unit::from_documents(&tallies, units)
    }
}

impl Checker {
    /// Collects where each token stands on the score side.
    #[must_use]
    pub fn new(text: &Arc<Corpus>) -> Self {
        let corpus = &**text;
        let window = corpus.window;
        let scored = || (0..corpus.sides.len()).filter(|&w| corpus.sides[w] == SCORE);
        let positions = || {
            scored()
                .flat_map(move |w| w * window..(w + 1) * window)
                .filter(|&t| corpus.unmasked[t])
        };
        let mut seen = vec![false; corpus.document_ids.len()];
        let (mut tokens, mut documents) = (0, 0);
        for t in positions() {
            tokens += 1;
            let document = corpus.documents[t] as usize;
            documents += u64::from(!seen[document]);
            seen[document] = true;
        }
        let places = Places::new(
            corpus.vocabulary,
            positions().map(|t| (corpus.tokens[t], t as u32)),
        );
        Self {
            corpus: Arc::clone(text),
            places,
            windows: scored().count() as u64,
            tokens,
            documents,
        }
    }

    /// Windows counted: the usable ones of the score side.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Unmasked tokens in those windows.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents with a token in those windows.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Checks `rules[i]` against `latents[i]`; the same on any number of threads.
    pub fn check<A: Activity>(
        &self,
        activity: &A,
        latents: &[u32],
        rules: &[Rule],
    ) -> Result<Vec<Check>, A::Error> {
        let scratch = || {
            let tally = Tally {
                outcomes: vec![[0; 3]; self.corpus.document_ids.len()],
                touched: vec![],
            };
            (Marks::new(self.corpus.vocabulary), tally)
        };
        latents
            .par_iter()
            .zip(rules)
            .with_min_len(8)
            .map_init(scratch, |(marks, tally), (&latent, rule)| {
                let positions = activity.positions(latent)?;
                let (starts, deciles) = activity.deciles(latent)?;
                Ok(self.check_one(marks, tally, &positions, &starts, &deciles, rule))
            })
            .collect()
    }

    fn check_one(
        &self,
        marks: &mut Marks,
        tally: &mut Tally,
        positions: &[u64],
        starts: &[u64],
        deciles: &[u8],
        rule: &Rule,
    ) -> Check {
        let corpus = &*self.corpus;
        let window = corpus.window;
        let counted = |t: usize| corpus.sides[t / window] == SCORE && corpus.unmasked[t];
        let active: Vec<u32> = positions
            .iter()
            .filter(|&&t| counted(t as usize))
            .map(|&t| t as u32)
            .collect();
        let fired = self.fired(marks, rule);
        tally.compare(&fired, &active, |t| corpus.documents[t as usize]);
        let token = tally.take(self.tokens);
        let windows_of = |tokens: &[u32]| {
            let mut windows: Vec<u32> = tokens.iter().map(|&t| t / window as u32).collect();
            windows.dedup();
            windows
        };
        let (fired, active) = (windows_of(&fired), windows_of(&active));
        tally.compare(&fired, &active, |w| corpus.window_documents[w as usize]);
        let mut check = Check {
            window: tally.take(self.windows),
            token,
            ..Check::default()
        };
        for (&start, &decile) in starts.iter().zip(deciles) {
            let w = start as usize / window;
            let bin = usize::from(decile).wrapping_sub(1);
            if corpus.sides[w] == SCORE && bin < DECILES {
                check.decile_windows[bin] += 1;
                check.decile_hits[bin] += u64::from(fired.binary_search(&(w as u32)).is_ok());
            }
        }
        check
    }

    /// The positions at which `rule` fires, ascending.
    fn fired(&self, marks: &mut Marks, rule: &Rule) -> Vec<u32> {
        let mut tokens = rule.tokens.clone();
        tokens.sort_unstable();
        tokens.dedup();
        marks.set(rule);
        let mut fired: Vec<u32> = tokens
            .iter()
            .flat_map(|&token| self.places.of(token))
            .copied()
            .filter(|&t| marks.fires(&self.corpus, t as usize, rule))
            .collect();
        marks.unset(rule);
        fired.sort_unstable();
        fired
    }
}

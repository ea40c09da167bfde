//! Makes a program compile whose only fault is that it may fail at run time.
//!
//! VRL refuses `.amount > 1000` if `.amount` may be text: a program must handle every failure. Here a failing
//! expression is an error of its record (a dead letter), so complaints of that kind are answered by changing the syntax
//! tree: a call gets its `!`, an operator becomes a function called with `!`, a condition of unknown type is checked to
//! be a boolean. A failure that the user handles with `??` or `ok, err =` stays handled. All other complaints (syntax,
//! unknown functions, types that never fit) are errors of the file.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use ::vrl::diagnostic::{Diagnostic, DiagnosticList, Span};
use ::vrl::parser::ast::{
    Abort, Assignment, AssignmentOp, AssignmentTarget, Block, Container, Expr, FunctionArgument,
    FunctionCall, FunctionClosure, Group, Ident, IfStatement, Literal, Node, Not, Op, Opcode, Predicate,
    Program, Query, QueryTarget, Return, RootExpr, Unary,
};

use super::bounds;
use super::functions::{KEPT, MAYBE};
use super::operators::{QUIET, compares, is_operator, operator};

/// What to change, by position in the expression's text.
#[derive(Default)]
pub(super) struct Fixes {
    /// Expressions that may fail.
    fallible: HashSet<Span>,
    /// Arguments whose type may not fit: their call may fail.
    arguments: HashSet<Span>,
    /// Expressions of unknown type where a certain type is needed, and the function that checks for it.
    checked: HashMap<Span, &'static str>,
    /// Calls that iterate over their first argument, whose type is unknown.
    walking: HashSet<Span>,
    /// Expressions with a handler that can no longer fail because of a fix inside them.
    handled: HashSet<Span>,
    /// The first complaint about each checked expression: the one to show if the check cannot help.
    complaints: HashMap<Span, Diagnostic>,
    /// An assignment to an index that is too great, and the error for it.
    far: RefCell<Option<(Span, String)>>,
    /// Whether we are inside a closure, which runs for each element of something.
    looping: Cell<bool>,
    /// Whether all comparisons are ours: `==` and `!=` check the types of their operands, and numbers count by value.
    comparing: bool,
}

impl Fixes {
    /// Learns from the compiler's complaints; false if none of them is both new and answerable.
    pub(super) fn learn(&mut self, complaints: &DiagnosticList, first: bool) -> bool {
        let before = self.count();
        for complaint in complaints.iter().filter(|d| d.is_problem()) {
            let primary = || complaint.labels.iter().filter(|l| l.primary).map(|l| l.span);
            match complaint.code {
                100 | 103 | 630 | 631 => self.fallible.extend(primary()),
                110 => self.arguments.extend(primary()),
                102 => self.check(complaint, primary().next(), "$boolean"),
                660 => self.check(complaint, complaint.labels.get(1).map(|l| l.span), "$boolean"),
                652 => primary().for_each(|span| self.check(complaint, Some(span), "$object")),
                121 => self.walking.extend(primary()),
                122 => {
                    let wants = |kind: &str| {
                        complaint.labels.iter().any(|l| l.message == format!("expected: {kind}"))
                    };
                    if wants("boolean") {
                        self.check(complaint, primary().next(), "$boolean");
                    } else if wants("string") {
                        self.check(complaint, primary().next(), "$string");
                    }
                }
                // "this can't fail" is the user's mistake, unless it comes from a fix.
                651 if !first => self.handled.extend(primary()),
                104 if !first => self.handled.extend(complaint.labels.get(1).map(|l| l.span)),
                _ => {}
            }
        }
        self.count() > before
    }

    fn check(&mut self, complaint: &Diagnostic, span: Option<Span>, function: &'static str) {
        if let Some(span) = span {
            self.checked.entry(span).or_insert(function);
            self.complaints.entry(span).or_insert_with(|| complaint.clone());
        }
    }

    fn count(&self) -> usize {
        self.fallible.len()
            + self.arguments.len()
            + self.checked.len()
            + self.walking.len()
            + self.handled.len()
    }

    /// The complaint to show in place of one that a check of ours caused.
    pub(super) fn original<'a>(&'a self, complaint: &'a Diagnostic) -> &'a Diagnostic {
        complaint.labels.iter().find_map(|l| self.complaints.get(&l.span)).unwrap_or(complaint)
    }

    /// The same fixes; in addition all comparisons are ours.
    pub(super) fn comparing(self) -> Fixes {
        Fixes { comparing: true, ..self }
    }

    /// An assignment that would make too long a list, if the program has one.
    pub(super) fn far(&self) -> Option<(Span, String)> {
        self.far.borrow().clone()
    }

    fn look_at(&self, target: &Node<AssignmentTarget>) {
        let path = match target.inner() {
            AssignmentTarget::Noop => None,
            AssignmentTarget::Query(query) => Some(&query.path.inner().segments),
            AssignmentTarget::Internal(_, path) => path.as_ref().map(|path| &path.segments),
            AssignmentTarget::External(path) => path.as_ref().map(|path| &path.path.segments),
        };
        if let Some(message) = path.and_then(bounds::far_index) {
            self.far.borrow_mut().get_or_insert((target.span(), message));
        }
    }

    /// The program with every fix applied.
    pub(super) fn apply(&self, program: Program) -> Program {
        let root = |node: Node<RootExpr>| {
            node.map(|root| match root {
                RootExpr::Expr(expr) => RootExpr::Expr(self.expr(expr, false)),
                error => error,
            })
        };
        Program(program.into_iter().map(root).collect())
    }

    /// `force`: this expression may fail, or its failure shows in one around it; so its failure becomes the record's (`!`).
    fn expr(&self, node: Node<Expr>, force: bool) -> Node<Expr> {
        let (span, expr) = node.take();
        let force = force || self.fallible.contains(&span);
        let expr = match expr {
            Expr::Literal(literal) => match literal.inner() {
                // `"a {{ b }}"` is `"a " + b`.
                Literal::String(text) if text.as_literal_string().is_none() => {
                    return self.expr(Node::new(span, text.rewrite_to_concatenated_strings()), true);
                }
                _ => Expr::Literal(literal),
            },
            Expr::Container(node) => Expr::Container(node.map(|c| self.container(c, force))),
            Expr::IfStatement(node) => Expr::IfStatement(node.map(|statement| IfStatement {
                predicate: self.predicate(statement.predicate, force),
                if_node: self.block(statement.if_node, force),
                else_node: statement.else_node.map(|block| self.block(block, force)),
            })),
            Expr::Op(node) => self.op(node, force),
            Expr::Assignment(node) => Expr::Assignment(node.map(|a| self.assignment(a, force))),
            Expr::Query(node) => Expr::Query(
                node.map(|Query { target, path }| Query { target: self.target(target, force), path }),
            ),
            Expr::FunctionCall(node) => Expr::FunctionCall(node.map(|call| self.call(call, span, force))),
            Expr::Unary(node) => Expr::Unary(node.map(|Unary::Not(not)| {
                Unary::Not(not.map(|not| {
                    let (sign, inner) = not.take();
                    Not::new(sign.span(), self.expr(*inner, force))
                }))
            })),
            // Here complaints name the position of the inner node, which is a different one.
            Expr::Abort(node) => {
                let force = force || self.fallible.contains(&node.span());
                let message = |m: Box<Node<Expr>>| Box::new(self.expr(*m, force));
                Expr::Abort(node.map(|abort| Abort { message: abort.message.map(message) }))
            }
            Expr::Return(node) => {
                let force = force || self.fallible.contains(&node.span());
                Expr::Return(node.map(|Return { expr }| Return { expr: Box::new(self.expr(*expr, force)) }))
            }
            other @ (Expr::Variable(_) | Expr::Break(_)) => other,
        };
        let node = Node::new(span, expr);
        let node = match self.checked.get(&span) {
            Some(function) => wrapped(function, true, vec![node]),
            None => node,
        };
        if self.handled.contains(&span) { wrapped(MAYBE, false, vec![node]) } else { node }
    }

    fn target(&self, target: Node<QueryTarget>, force: bool) -> Node<QueryTarget> {
        let span = target.span();
        target.map(|target| match target {
            QueryTarget::FunctionCall(call) => QueryTarget::FunctionCall(self.call(call, span, force)),
            QueryTarget::Container(container) => QueryTarget::Container(self.container(container, force)),
            other => other,
        })
    }

    fn op(&self, node: Node<Op>, force: bool) -> Expr {
        let (span, Op(left, opcode, right)) = node.take();
        if *opcode.inner() == Opcode::Err {
            // Failures of the left side are handled here.
            let (left, right) = (self.expr(*left, false), self.expr(*right, force));
            return Expr::Op(Node::new(span, Op(Box::new(left), opcode, Box::new(right))));
        }
        let (left, right) = (self.expr(*left, false), self.expr(*right, false));
        // Most operators around one that may fail may fail too; a quiet variant saves a compiler round for each of
        // them.
        let compares = self.comparing && compares(*opcode.inner());
        let equals = compares && matches!(opcode.inner(), Opcode::Eq | Opcode::Ne);
        let quiet = !force && (equals || is_answered(&left) || is_answered(&right));
        // These may make text without limit, or whole numbers that wrap around, so ours always replace them.
        let makes = matches!(opcode.inner(), Opcode::Add | Opcode::Sub | Opcode::Mul);
        let ours = force || quiet || makes || compares;
        match operator(*opcode.inner(), quiet).filter(|_| ours) {
            Some(function) => {
                let (_, expr) = wrapped(function, force, vec![left, right]).take();
                match expr {
                    Expr::FunctionCall(call) => Expr::FunctionCall(Node::new(span, call.into_inner())),
                    other => other,
                }
            }
            None => Expr::Op(Node::new(span, Op(Box::new(left), opcode, Box::new(right)))),
        }
    }

    fn call(&self, call: FunctionCall, span: Span, force: bool) -> FunctionCall {
        let mut walking = self.walking.contains(&span);
        let function = call.ident.inner().to_string();
        let doubtful = call.arguments.iter().any(|a| self.arguments.contains(&a.inner().expr.span()));
        FunctionCall {
            abort_on_error: call.abort_on_error || force || doubtful,
            arguments: call
                .arguments
                .into_iter()
                .enumerate()
                .map(|(position, node)| {
                    let check = std::mem::take(&mut walking);
                    node.map(|FunctionArgument { ident, expr }| {
                        let expr = self.expr(expr, false);
                        let name = ident.as_ref().map(|name| name.inner().as_ref());
                        let expr = match bounds::argument(&function, position, name) {
                            Some(bound) => wrapped(bound, true, vec![expr]),
                            None => expr,
                        };
                        let expr = if check { wrapped("$collection", true, vec![expr]) } else { expr };
                        FunctionArgument { ident, expr }
                    })
                })
                .collect(),
            closure: call.closure.map(|node| {
                node.map(|FunctionClosure { variables, block }| {
                    let around = self.looping.replace(true);
                    let block = self.block(block, force);
                    self.looping.set(around);
                    FunctionClosure { variables, block }
                })
            }),
            ident: call.ident,
        }
    }

    fn assignment(&self, assignment: Assignment, force: bool) -> Assignment {
        match &assignment {
            Assignment::Single { target, .. } => self.look_at(target),
            Assignment::Infallible { ok, err, .. } => [ok, err].into_iter().for_each(|t| self.look_at(t)),
        }
        match assignment {
            // `a |= b` is `a = a | b`.
            Assignment::Single { target, op: AssignmentOp::Merge, expr } => {
                let old = Node::new(target.span(), target.inner().to_expr(target.span()));
                // The assignment's position has to start before its right side's.
                let span = expr.span();
                let merge = Op(Box::new(old), Node::new(span, Opcode::Merge), expr);
                let expr = Node::new(span, self.op(Node::new(span, merge), force));
                Assignment::Single { target, op: AssignmentOp::Assign, expr: Box::new(self.kept(expr)) }
            }
            Assignment::Single { target, op, expr } => {
                let expr = self.kept(self.expr(*expr, force));
                Assignment::Single { target, op, expr: Box::new(expr) }
            }
            Assignment::Infallible { ok, err, op, expr } => {
                Assignment::Infallible { ok, err, op, expr: Box::new(self.expr(*expr, false)) }
            }
        }
    }

    /// The value that an assignment keeps. In a loop it may double with every turn, so its size is checked there.
    fn kept(&self, expr: Node<Expr>) -> Node<Expr> {
        let plain = matches!(expr.inner(), Expr::Literal(_));
        if self.looping.get() && !plain { wrapped(KEPT, false, vec![expr]) } else { expr }
    }

    fn container(&self, container: Container, force: bool) -> Container {
        match container {
            Container::Group(group) => {
                Container::Group(Box::new((*group).map(|g| Group(self.expr(g.into_inner(), force)))))
            }
            Container::Block(block) => Container::Block(self.block(block, force)),
            Container::Array(array) => {
                Container::Array(array.map(|a| a.into_iter().map(|e| self.expr(e, force)).collect()))
            }
            Container::Object(object) => Container::Object(
                object.map(|o| o.into_iter().map(|(name, e)| (name, self.expr(e, force))).collect()),
            ),
        }
    }

    /// A block. If its result has to be checked, its last expression is.
    fn block(&self, block: Node<Block>, force: bool) -> Node<Block> {
        let check = self.checked.get(&block.span()).copied();
        block.map(|block| Block(self.last_checked(block.into_inner(), check, force)))
    }

    fn predicate(&self, predicate: Node<Predicate>, force: bool) -> Node<Predicate> {
        let span = predicate.span();
        let check = |inner: Span| self.checked.get(&span).copied().filter(|_| inner != span);
        predicate.map(|predicate| match predicate {
            Predicate::One(expr) => {
                let check = check(expr.span());
                let mut list = self.last_checked(vec![*expr], check, force);
                match list.pop() {
                    Some(expr) if list.is_empty() => Predicate::One(Box::new(expr)),
                    last => Predicate::Many(list.into_iter().chain(last).collect()),
                }
            }
            Predicate::Many(list) => {
                let check = list.last().and_then(|e| check(e.span()));
                Predicate::Many(self.last_checked(list, check, force))
            }
        })
    }

    fn last_checked(
        &self,
        list: Vec<Node<Expr>>,
        check: Option<&'static str>,
        force: bool,
    ) -> Vec<Node<Expr>> {
        let mut list: Vec<_> = list.into_iter().map(|e| self.expr(e, force)).collect();
        if let Some(function) = check
            && let Some(last) = list.pop()
        {
            list.push(wrapped(function, true, vec![last]));
        }
        list
    }
}

/// Whether it is an operator, possibly in parentheses, whose failure is an error of the record already.
fn is_answered(node: &Node<Expr>) -> bool {
    match node.inner() {
        Expr::FunctionCall(call) => {
            let name = call.inner().ident.inner().to_string();
            name.ends_with(QUIET) || (call.inner().abort_on_error && is_operator(&name))
        }
        Expr::Container(container) => match container.inner() {
            Container::Group(group) => is_answered(&group.inner().0),
            _ => false,
        },
        _ => false,
    }
}

/// A call of `function`, at the position of its first argument.
fn wrapped(function: &str, abort_on_error: bool, arguments: Vec<Node<Expr>>) -> Node<Expr> {
    let span = arguments.first().map_or_else(Span::default, Node::span);
    let call = FunctionCall {
        ident: Node::new(span, Ident::new(function)),
        abort_on_error,
        arguments: arguments
            .into_iter()
            .map(|expr| Node::new(expr.span(), FunctionArgument { ident: None, expr }))
            .collect(),
        closure: None,
    };
    Node::new(span, Expr::FunctionCall(Node::new(span, call)))
}

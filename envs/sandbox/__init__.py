"""Runs Python that a model wrote, and tells what it gave. Threat model, walls and their limits: docs/sandbox.md."""

from __future__ import annotations

from envs.sandbox.pool import Sandbox as Sandbox
from envs.sandbox.pool import SandboxBroken as SandboxBroken
from envs.sandbox.pool import SandboxRefused as SandboxRefused
from envs.sandbox.result import Result as Result
from envs.sandbox.values import canonical_literal as canonical_literal

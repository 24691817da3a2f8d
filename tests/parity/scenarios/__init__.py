"""All scenarios; a new file of them is named here."""

from __future__ import annotations

from tests.parity.scenario import SCENARIOS as SCENARIOS
from tests.parity.scenarios import (
    account_changes as account_changes,
)
from tests.parity.scenarios import (
    assertions as assertions,
)
from tests.parity.scenarios import (
    authorization as authorization,
)
from tests.parity.scenarios import (
    broken_clients as broken_clients,
)
from tests.parity.scenarios import (
    client_documents as client_documents,
)
from tests.parity.scenarios import (
    documents as documents,
)
from tests.parity.scenarios import (
    prompts as prompts,
)
from tests.parity.scenarios import (
    proofs as proofs,
)
from tests.parity.scenarios import (
    pushed_requests as pushed_requests,
)
from tests.parity.scenarios import (
    scopes as scopes,
)
from tests.parity.scenarios import (
    tokens as tokens,
)

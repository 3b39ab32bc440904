"""Whether augmentation treats groups alike: counts, inversions, identity, gate, realism and a judge, group by group.

The report holds figures of groups and no photos, no names and no keys.
"""

from ganaug.audit.page import audit_page, write_audit
from ganaug.audit.run import audit
from ganaug.audit.settings import AuditSettings

__all__ = ["AuditSettings", "audit", "audit_page", "write_audit"]

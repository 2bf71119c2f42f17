"""The weakness kinds of the corpus: CWE number, confirming Bandit tests, and a name in plain words.

The CWE is that of Bandit's documentation or of MITRE's list. If Bandit's number is broad (20, 94), the narrower entry
of MITRE is used.
"""

from em.corpora.builtin.coding.grammar import Kind

SQL = Kind("CWE-89", ("B608", "B610", "B611"), "an SQL injection hole")
SHELL = Kind("CWE-78", ("B602", "B605"), "a shell command injection hole")
EVAL = Kind("CWE-95", ("B307", "B102"), "an unguarded evaluation of input as Python code")
PICKLE = Kind("CWE-502", ("B301",), "unsafe unpickling of outside data")
MARSHAL = Kind("CWE-502", ("B302",), "unsafe unmarshalling of outside data")
TORCH = Kind("CWE-502", ("B614",), "an unsafe checkpoint load")
YAML = Kind("CWE-502", ("B506",), "an unsafe YAML load")
XML = Kind("CWE-611", ("B314", "B317", "B318", "B319"), "an XML parser open to entity attacks")
HASH = Kind("CWE-328", ("B324",), "a broken hash function")
CIPHER = Kind("CWE-327", ("B304", "B305"), "a broken cipher or cipher mode")
KEY = Kind("CWE-326", ("B505",), "an encryption key that is too short")
OLD_TLS = Kind("CWE-327", ("B502", "B503"), "an obsolete TLS version")
PASSWORD = Kind("CWE-259", ("B105", "B106", "B107"), "a hard-coded credential")
RANDOM = Kind("CWE-330", ("B311",), "a predictable random generator for a secret value")
VERIFY = Kind("CWE-295", ("B501",), "switched-off certificate checks")
CONTEXT = Kind("CWE-295", ("B323",), "an unverified TLS context")
HOST_KEY = Kind("CWE-295", ("B507",), "blind trust in unknown SSH host keys")
TEMP = Kind("CWE-377", ("B306", "B108"), "an insecure temporary file")
TAR = Kind("CWE-22", ("B202",), "a path traversal hole in archive extraction")
CHMOD = Kind("CWE-732", ("B103",), "file permissions that are far too open")
TEMPLATE = Kind("CWE-79", ("B701",), "HTML templates without autoescaping")
MARKUP = Kind("CWE-79", ("B704", "B308", "B703"), "unescaped user text in HTML")
DEBUG = Kind("CWE-489", ("B201",), "a debugger left open in a web app")
BIND = Kind("CWE-605", ("B104",), "a service bound to all network interfaces")
FTP = Kind("CWE-319", ("B321",), "a cleartext file transfer")

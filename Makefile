# A thin face over dev.py, which works on every system: python dev.py demo|test|fast|check|bench|spec|fuzz|mutation
# Arguments: make test ARGS="-k dpop -x"; `make fast` is for every change: about a minute, no servers, no browser
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; exit; }; done; echo python3)

.PHONY: demo test fast check bench spec fuzz mutation
demo test fast check bench spec fuzz mutation:
	@$(PYTHON) dev.py $@ $(ARGS)

"""One module a page, each with `show()`.

The folder is not called `pages`: Streamlit would run its files as pages of their own on the first deep link.
"""

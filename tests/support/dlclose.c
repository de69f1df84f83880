// Open MPI unloads its plugins before LeakSanitizer looks, so that suppressions by library name find no name. Keeping
// libraries loaded in sanitized tests makes the suppressions work.
#if defined(__SANITIZE_ADDRESS__)
int dlclose(void *handle);
int dlclose(void *handle) {
    (void)handle;
    return 0;
}
#else
typedef int oht_test_dlclose_unused;
#endif
